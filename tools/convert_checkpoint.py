"""A ViT's weights under other names.   python tools/convert_checkpoint.py SRC DST --to timm

SRC: a checkpoint of ours, MAE, timm, DINO or iBOT, read as plain tensors. DST ends in .pth or
.safetensors. --to mmpretrain: names of its VisionTransformer; mmseg-mae: bare names, the only ones
that mmseg's MAE backbone loads; timm: names of its VisionTransformer.
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
    from semmae.engine.launch import fail_clearly
    with fail_clearly():
        from semmae.engine.checkpoint import convert
        count = convert(args.src, args.dst, args.to)
        print(f'{count} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
