"""Fine-tuning of SemMAE ViT-B/8 on Stanford Cars, 196 models. Paper Table 6: 94.4 (MAE 94.2).

Run:    tools/dist_train.sh mm_configs/semmae_cars.py 4 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_pretrain/epoch_800.pth
Needs:  data/stanford_cars with cars_train/, cars_test/ and devkit/, cars_test_annos_withlabels.mat
        in devkit/ or beside it; or car_ims/ and cars_annos.mat (python tools/check_data.py cars
        says what is missing).
Paper:  no recipe.
Ours:   as semmae_cub.py. Not tuned.
Status: not run at full length here.
"""
_base_ = ['semmae_cub.py']

model = dict(head=dict(num_classes=196), data_preprocessor=dict(num_classes=196))
_cars = dict(type='semmae.StanfordCars', data_root='data/stanford_cars')
train_dataloader = dict(dataset=dict(dataset=_cars))
val_dataloader = dict(dataset=_cars)
test_dataloader = val_dataloader

result = dict(task='cars', dataset='Stanford Cars', full=dict(num_train=8144))
