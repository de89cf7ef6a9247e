"""Mini part learning with our decoder: each part painted in one colour.

Run:    python tools/train.py mm_configs/mini/parts_painted_mini.py
Needs:  python -m semmae.datasets.toy --out data/toy; work_dirs/mae_p16_mini/epoch_16.pth
"""
_base_ = ['semmae_parts_mini.py']

model = dict(decoder=dict(_delete_=True, type='semmae.PaintDecoder', texture='parts'))
recipe = dict(id='parts_painted', method='part learning, painted')
