"""Part learning with 7 parts, the number of channels in the official code (the paper: 6).

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_7parts.py
Needs:  as mm_configs/semmae_parts.py
Paper:  not reported.
Status: not run at full length here; at toy scale in benchmarks/results/parts.
"""
_base_ = ['../semmae_parts.py']

num_parts = 7
model = dict(num_parts=num_parts)
recipe = dict(id='parts_7parts', method='part learning, 7 parts')
