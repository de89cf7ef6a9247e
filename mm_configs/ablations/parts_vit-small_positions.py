"""Part learning with Eq. 2's softmax over positions, the other reading of the paper.

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_positions.py
Needs:  as mm_configs/semmae_parts.py
Paper:  not reported.
Status: not run at full length here; at toy scale in benchmarks/results/parts.
"""
_base_ = ['../semmae_parts.py']

model = dict(softmax_over='positions')
recipe = dict(id='parts_positions', method='part learning, softmax over positions')
