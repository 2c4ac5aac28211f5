"""What all configurations share: the settings of the paper's Section IV-B."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    # agcnn_jax/run/keys.py says what each key may be. A config that starts from this one may write
    # 64 for (64,).
    config = ml_collections.ConfigDict(type_safe=False)
    config.seed = 0
    # Where everything a run writes goes; empty for runs/<name of the config file>.
    config.workdir = ""

    config.backbone = "resnet50"  # resnet50, densenet121 or resnet_small
    config.pooling = "max"  # Pool5 of Fig. 2; avg for ImageNet and CheXNet checkpoints
    # Of the computation: float32, bfloat16, or float64 to compare runs digit by digit.
    config.dtype = "float32"
    # Of float32 products: default is the fastest that the device offers (TF32 on recent NVIDIA
    # GPUs, passes of bfloat16 on TPU), high is more exact, and highest is float32.
    config.matmul_precision = "default"
    # What BatchNorm normalises by in training: the statistics of the whole batch (global), or each
    # device's own (device), as PyTorch's DistributedDataParallel does.
    config.batch_norm = "global"
    # Weights that the backbones of the global and the local branch start from: random, a folder
    # that data_prep/torch_weights.py wrote, or that of a stage trained before, such as
    # runs/other/stages/1_global, of which the global backbone is taken.
    config.init = "random"
    # config refuses weights that were made with another mean or std than the two keys below; own
    # accepts them.
    config.init_normalisation = "config"
    # Mean and standard deviation of each input channel, for gray levels in 0..1: ImageNet's.
    config.mean = (0.485, 0.456, 0.406)
    config.std = (0.229, 0.224, 0.225)

    config.strategy = "G_L_F"  # Table II: G_L_F, G_LF, GL_F, GLF or G_L_F*
    config.local_input = "crop"  # image, with strategy GLF: the control experiment of Section IV-C

    data = config.data = ml_collections.ConfigDict(type_safe=False)
    data.dir = "data/chestxray14"
    # random is the paper's; patient and official keep patients apart; lists follows the files in
    # data.lists.
    data.protocol = "random"
    data.lists = ""
    data.split_seed = 0
    # Train although the lists of official or lists leave out more than 1 % of the images.
    data.allow_unlisted = False

    config.input_size = 224
    augment = config.augment = ml_collections.ConfigDict(type_safe=False)
    augment.crop = "random_resized"  # or random, or centre for none
    augment.scale = (0.08, 1.0)
    augment.ratio = (3 / 4, 4 / 3)
    augment.flip = True

    attention = config.attention = ml_collections.ConfigDict(type_safe=False)
    attention.statistic = "max"  # Table III: max, l1 or l2
    attention.tau = 0.7
    # Where training crops: host (in the pipeline, one batch ahead) or device (in the step).
    attention.cropper = "host"

    # For global, local and fusion; one number serves all. A stage that trains several branches
    # takes the smallest batch, the smallest learning rate and the most epochs of theirs.
    config.batch_size = (128, 64, 64)
    config.epochs = (50,)
    config.learning_rate = (0.01,)
    # The learning rate is divided by drop_factor after this part of the epochs: 20 of 50.
    config.drop_after = 0.4
    config.drop_factor = 10.0
    # Epochs at the start of a stage in which the learning rate rises to its value.
    config.warmup_epochs = 0.0
    # How the learning rate follows the batch size, if that is not reference_batch_size: none,
    # linear or sqrt.
    config.learning_rate_scaling = "none"
    config.reference_batch_size = (128, 64, 64)
    # Micro-batches that every device works a step off in, to need less memory. BatchNorm sees the
    # micro-batches one by one.
    config.accumulate = 1
    config.momentum = 0.9
    config.weight_decay = 1e-4
    # Ends every stage after this many steps, for trying things out; 0 for no limit.
    config.max_steps = 0

    config.eval_batch_size = 64
    config.log_every = 20  # steps
    config.checkpoint_every = 500  # steps, besides the end of every epoch
    config.profile = 0  # steps of each stage to trace into <workdir>/profile
    config.peer_timeout = 120  # seconds after which a silent process of a run counts as lost
    return config
