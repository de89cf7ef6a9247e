"""Part learning with a decoder of ours: each part painted in one colour.

The colour of a part is decided by the mean of its own patch tokens, not by the class token, so an
object of several colours needs several parts. At toy scale this finds far better parts, with and
without the background, and depends less on the learning rate (benchmarks/results/parts).

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_painted.py
Needs:  as mm_configs/semmae_parts.py
Paper:  not reported.
Status: not run at full length here.
"""
_base_ = ['../semmae_parts.py']

model = dict(decoder=dict(_delete_=True, type='semmae.PaintDecoder', texture='parts'))
recipe = dict(id='parts_painted', method='part learning, painted')
