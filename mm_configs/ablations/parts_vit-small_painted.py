"""Part learning with our decoder: each part painted in one colour.

The colour of a part depends on the mean of its own patch tokens, not on the class token, so an
object of several colours needs several parts. At toy scale: ARI 70.5 against 44.7, on object
patches 57.3 against 42.2; on birds no difference (benchmarks/results/parts).

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_painted.py
Needs:  as mm_configs/semmae_parts.py
Paper:  not reported; its decoder is StyleGAN-like, with texture from the class token.
Status: not run at full length here.
"""
_base_ = ['../semmae_parts.py']

model = dict(decoder=dict(_delete_=True, type='semmae.PaintDecoder', texture='parts'))
recipe = dict(id='parts_painted', method='part learning, painted')
