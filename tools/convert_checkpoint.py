"""A ViT's weights under other names.   python tools/convert_checkpoint.py SRC DST --to timm

SRC: a checkpoint of ours, MAE, SemMAE, timm, DINO, iBOT, BEiT or Hugging Face's ViT, read as plain
tensors, all of them there. DST ends in .pth or .safetensors. --to mmpretrain: names of its
VisionTransformer, for a BEiT of its BEiTViT; mmseg-mae: bare names, the only ones that mmseg's MAE
backbone loads; timm: names of its VisionTransformer, which cannot be a BEiT.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('src')
    parser.add_argument('dst')
    parser.add_argument('--to', choices=['mmpretrain', 'mmseg-mae', 'timm'], required=True)
    args = parser.parse_args()
    from semmae.training.errors import fail_clearly
    with fail_clearly():
        from semmae.checkpoints.load import convert
        count = convert(args.src, args.dst, args.to)
        print(f'{count} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
