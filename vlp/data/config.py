"""Which pairs a run reads, and how pictures and captions become tensors."""

from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class DataConfig:
    """Settings of reading. `batch_size` is global: the pairs of one optimizer step over all ranks and micro batches."""

    # Folder of indexed shards to train on; or several, with how often an epoch shows each: {"coco": 4, "cc12m": 0.5};
    # or the URL of remote shards, {000..123} for their numbers
    train: str | dict[str, float] = ""
    val: str = ""  # folder of indexed shards for retrieval during and after training; "" = none
    tokenizer: str = ""  # folder with tokenizer.json or vocab.txt; "" = the (first) train folder
    image_size: int = 224  # pictures are made square, image_size x image_size pixels
    max_length: int = 30  # longest caption in word pieces, [CLS] and [SEP] included; longer ones are cut
    batch_size: int = 64
    captions: int = 0  # 0 = an epoch shows every pair; n = every picture, with n of its captions one after another
    block: int = 1  # so many neighbours in the shards stay together in the order: pictures, or pairs if captions=0
    window: int = 65_536  # so many blocks, neighbours in runs of 512, are mixed at a time; 0 = the whole set
    length_group: int = 1  # the pairs of so many batches are sorted by length and cut anew, to pad less; 1 = none are
    workers: int = 0  # reading processes a rank; the order is the same for any number
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_scale: tuple[float, float] = (1.0, 1.0)  # area shares of random resized crops; (1, 1) = the whole picture
    randaugment: tuple[int, int] = (0, 0)  # operations a picture and their magnitude of 10; none changes colours
    flip: bool = False  # mirror half of the pictures, and swap left and right in their captions
    augment_on_device: bool = False  # reading processes cut out, the device resizes, augments and mirrors
    use_features: bool = False  # read cached vision tokens ({key}.features.safetensors) in place of pictures
    use_regions: bool = False  # read region features ({key}.regions.safetensors) as well
    use_tags: bool = False  # read the words that a detector said of the picture (json "tags") as well
    use_graph: bool = False  # read what the words of a caption speak of (json "phrases" and "nodes") as well
    use_pictures: bool = True  # false: decode no pictures, the model reads regions alone
    cache: str = ""  # folder that holds remote shards while they are read; needed where train is a URL
    cache_gigabytes: float = 50.0  # remote shards used longest ago make room above this
    allow_commands: bool = False  # whether a URL "pipe:COMMAND" may run its command
    max_bad_share: float = 0.001  # the run stops when more than this share of the samples cannot be read

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of the channels."""
        return tuple(self.mean), tuple(self.std)

    @property
    def folders(self) -> list[str]:
        """The folders to train on, none where `train` is not set."""
        return list(self.train) if isinstance(self.train, dict) else [self.train] if self.train else []
