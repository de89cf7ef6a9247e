"""Part learning with 12 parts.

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_12parts.py
Needs:  as mm_configs/semmae_parts.py
Paper:  not reported.
Status: not run at full length here; at toy scale in benchmarks/results/parts.
"""
_base_ = ['../semmae_parts.py']

num_parts = 12
model = dict(num_parts=num_parts)
recipe = dict(id='parts_12parts', method='part learning, 12 parts')
