"""Names of tables and formats; imports nothing."""
TITLES: dict[int | str, str] = {
    1: 'Table 1. Integrating semantic information into MAE: linear probing on ImageNet-1k',
    2: 'Table 2. Patch size of different models: fine-tuning on ImageNet-1k',
    3: 'Table 3. Masking strategies: linear probing on ImageNet-1k, 8x8 patches',
    4: 'Table 4. Semantic parts used for masking: linear probing on ImageNet-1k',
    5: 'Table 5. System-level comparison on ImageNet-1k, ViT-Base',
    6: 'Table 6. Fine-tuning on fine-grained datasets',
    7: 'Table 7. Semantic segmentation on ADE20K, 160k iterations',
}
DENSE = 'dense'  # key of the table, and the mark of its results
FORMATS = ('markdown', 'latex', 'csv', 'html')
LONG = ('long', 'json')  # every result, a line for each mean (`reporting.long`)
