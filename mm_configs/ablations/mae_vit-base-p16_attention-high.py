"""MAE, ViT-B/16, masks guided by attention: high (Fig. 1).

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p16_attention-high.py 16
Needs:  a part store at 14x14 made with --source heads, whose scores are the class token's attention
Paper:  Fig. 1: AttMask (Kakogeorgiou et al. 2022), the most attended patches are masked.
Ours:   the attention is that of the frozen part encoder, not of a teacher trained with the
        model; the target is MAE's.
Status: not run at full length here.
"""
_base_ = ['semmae_vit-base-p16_ibot-parts.py']

model = dict(masking=dict(
    _delete_=True, type='semmae.AttentionMasking', mode='high', mask_ratio=0.75))
train_dataloader = dict(dataset=dict(dataset=dict(foreground='attention')))

recipe = dict(id='mae_p16_attention_high', method='AttMask-High masks')
