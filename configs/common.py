"""Settings that all configs share: those of the paper's Section IV-B.

A config is a Python file whose `get_config` starts from this one and changes what it needs; see
configs/demo.py. The command line overrides any key: --config.seed=1, --config.data.dir=DATA.
agcnn_jax/run/keys.py holds the range of each key.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(type_safe=False)  # so that 64 may replace (64,)
    # Seeds weights, order of images and augmentation, but not the split: see data.split_seed.
    config.seed = 0
    # Folder or bucket for everything that a run writes. Empty: runs/<name of the config file>.
    config.workdir = ""

    # The model.
    config.backbone = "resnet50"  # resnet50, densenet121 or resnet_small
    # Pooling of the last feature map: max is Pool5 of Fig. 2; ImageNet and CheXNet used avg.
    config.pooling = "max"
    # The dtype of the computation: float32, bfloat16, or float64 to compare runs digit by digit.
    # Parameters stay float32 at bfloat16.
    config.dtype = "float32"
    # Precision of float32 products and convolutions. default: the fastest that the device offers
    # (TF32 on recent NVIDIA GPUs, passes of bfloat16 on TPUs); high: more exact; highest: float32.
    config.matmul_precision = "default"
    # Statistics that BatchNorm normalises by in training. global: those of the whole batch;
    # device: those of each device's share, as in PyTorch's DistributedDataParallel.
    config.batch_norm = "global"

    # Initial weights of the global and local backbones: random; a folder that
    # data_prep/torch_weights.py wrote; or a finished stage of another run, such as
    # runs/other/stages/1_global, whose global backbone both branches get.
    config.init = "random"
    # config: refuse weights that were made for another mean or std than the two keys below;
    # own: accept them.
    config.init_normalisation = "config"
    # Mean and standard deviation of each input channel, for gray levels in 0..1. These are
    # ImageNet's.
    config.mean = (0.485, 0.456, 0.406)
    config.std = (0.229, 0.224, 0.225)

    # Which branches each stage trains (Table II): G_L_F, G_LF, GL_F, GLF or G_L_F*.
    config.strategy = "G_L_F"
    # Input of the local branch: crop, the attended region; or image, the whole image, with
    # strategy=GLF the control experiment of Section IV-C.
    config.local_input = "crop"

    data = config.data = ml_collections.ConfigDict(type_safe=False)
    # The folder or bucket that data_prep/chestxray14.py wrote.
    data.dir = "data/chestxray14"
    # The split. random: by image, as in the paper; patient: by patient; official: NIH's lists;
    # lists: the lists in the folder data.lists.
    data.protocol = "random"
    data.lists = ""
    data.split_seed = 0  # seeds the split, except under lists
    # Accept lists that leave out more than 1 % of the images (official and lists).
    data.allow_unlisted = False

    # Side of the square input in pixels; what is stored may be larger.
    config.input_size = 224
    augment = config.augment = ml_collections.ConfigDict(type_safe=False)
    # Crop of a training image: random_resized, random (of input_size), or centre for none.
    augment.crop = "random_resized"
    augment.scale = (0.08, 1.0)  # area of a random resized crop, as a fraction of the image's
    augment.ratio = (3 / 4, 4 / 3)  # its width divided by its height
    augment.flip = True  # mirror a training image with probability 1/2

    attention = config.attention = ml_collections.ConfigDict(type_safe=False)
    # Statistic over channels that makes a heat map of a feature map (Table III): max, l1 or l2.
    attention.statistic = "max"
    # Threshold of the heat map (Eq. 4), from 0 to 1.
    attention.tau = 0.7
    # Where training crops regions: on the host, one batch ahead, or on the device, in the step.
    attention.cropper = "host"

    # One number for all branches, or three for global, local and fusion. A stage that trains
    # several branches takes their smallest batch, smallest learning rate and most epochs.
    config.batch_size = (128, 64, 64)  # images in a step, on all devices together
    config.epochs = (50,)
    config.learning_rate = (0.01,)
    # The learning rate is divided by drop_factor after this fraction of the epochs: 20 of 50.
    config.drop_after = 0.4
    config.drop_factor = 10.0
    # Epochs over which the learning rate rises to its value at the start of a stage.
    config.warmup_epochs = 0.0
    # How the learning rate follows batch_size / reference_batch_size: none, linear or sqrt.
    config.learning_rate_scaling = "none"
    config.reference_batch_size = (128, 64, 64)
    # Micro-batches that each step is split into, to save memory. BatchNorm normalises each
    # micro-batch by itself.
    config.accumulate = 1
    config.momentum = 0.9
    config.weight_decay = 1e-4  # on all parameters
    # Ends every stage after this many steps, to try things out; 0 for no limit.
    config.max_steps = 0

    # None of these changes a result.
    config.eval_batch_size = 64  # images in a batch of validation and evaluation
    config.log_every = 20  # steps between two lines of the log
    config.checkpoint_every = 500  # steps between two checkpoints, beside the one of each epoch
    config.profile = 0  # steps of each stage to trace into <workdir>/profile
    config.peer_timeout = 120  # seconds of silence after which a process of the run counts as lost
    return config
