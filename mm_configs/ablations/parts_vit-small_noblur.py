"""Part learning with no blur on the part maps.

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_noblur.py
Needs:  as mm_configs/semmae_parts.py
Paper:  not reported.
Status: not run at full length here; at toy scale in benchmarks/results/parts.
"""
_base_ = ['../semmae_parts.py']

model = dict(blur_kernel=1)
recipe = dict(id='parts_noblur', method='part learning, no blur')
