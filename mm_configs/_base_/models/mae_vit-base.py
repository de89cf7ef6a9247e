"""MAE with ViT-B and the 512-wide, 8-layer decoder (MAE, Table 1). Configs set the sizes."""
model = dict(
    type='semmae.SemMAE',
    backbone=dict(type='semmae.ViT', arch='base', is_pos_embed_fixed=True),
    decoder=dict(type='semmae.MAEDecoder', embed_dim=768, decoder_embed_dim=512, decoder_depth=8,
                 decoder_num_heads=16),
    masking=dict(type='semmae.RandomMasking', mask_ratio=0.75),
    norm_pix_loss=True)
