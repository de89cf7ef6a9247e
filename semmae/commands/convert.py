"""A ViT's weights under other names.

SRC: a complete checkpoint of this package, MAE, SemMAE, timm, DINO, iBOT, BEiT or Hugging Face's
ViT. DST ends in .pth or .safetensors. --to mmpretrain: names of its VisionTransformer (of BEiTViT
for a BEiT); mmseg-mae: bare names, as mmseg's MAE backbone needs them; timm: names of its
VisionTransformer (no BEiT).
"""

from ..shipped import CommandParser


def main(argv=None, prog='convert_checkpoint.py'):
    parser = CommandParser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('src')
    parser.add_argument('dst')
    parser.add_argument('--to', choices=['mmpretrain', 'mmseg-mae', 'timm'], required=True)
    args = parser.parse_args(argv)
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..files import require_checkpoint
        require_checkpoint(args.src)
        from ..checkpoints.load import convert
        count = convert(args.src, args.dst, args.to)
        print(f'{count} tensors -> {args.dst}')
