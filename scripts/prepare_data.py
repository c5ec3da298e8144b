"""Prepares data sets for the experiments, once, from their original files; no TensorFlow.

    python scripts/prepare_data.py --dataset=mnist,cifar10
    python scripts/prepare_data.py --dataset=cifar10 --raw_dir=/folder/with/the/files

writes tfds directories that `experiments.data.load` and `tfds.data_source` read (in the format
array_record; `tfds.load` does not read that format, even with TensorFlow). The original files are
downloaded from their official places, or taken from --raw_dir: the published .gz or .tar.gz files
or, for mnist and cifar10, the files inside them (plain, .gz or .xz), in --raw_dir itself or in its
folder named as the data set. Every file's SHA-256 is checked. A set that is already prepared is
left as it is. `mnist_5k` needs no preparation. The series etth1 and ettm2 are one CSV each (plain,
.gz or .xz in --raw_dir or its folder `ett`), which is put into the folder `ett` unchanged; likewise
the text tinyshakespeare, whose file is called input.txt.

    python scripts/prepare_data.py --dataset=imagenet2012 --raw_dir=/folder/with/the/archives

takes ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which image-net.org gives to those who
register; of these 155 GB only the sizes are checked.
"""

import sys

from absl import app, flags, logging

from experiments.data import sources

_DATASET = flags.DEFINE_list(
    "dataset", None, f"Comma-separated names from: {', '.join(sources.NAMES)}.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "tfds directory to write to; $TFDS_DATA_DIR, else ~/tensorflow_datasets."
)
_RAW_DIR = flags.DEFINE_string(
    "raw_dir", None, "Folder with the original files; by default they are downloaded."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; names go into --dataset=a,b.")
    logging.set_verbosity(logging.ERROR)  # tfds says much at INFO
    data_dir = _DATA_DIR.value or sources.default_data_dir()
    try:
        for name in _DATASET.value:
            sources.check_name(name)
        for name in _DATASET.value:
            if name == "mnist_5k":
                print("mnist_5k comes with the installed packages; nothing to prepare.")
                continue
            # Here, so that --help and a wrong name answer at once.
            import tensorflow_datasets as tfds

            from experiments.data.imagenet import prepare_imagenet
            from experiments.data.prepare import prepare, prepare_series, prepare_text
            from experiments.data.releases import SERIES, TEXTS

            if not sys.stderr.isatty():
                tfds.disable_progress_bar()
            own = {"imagenet2012": prepare_imagenet}
            own |= dict.fromkeys(SERIES, prepare_series) | dict.fromkeys(TEXTS, prepare_text)
            prepare_one = own.get(name, prepare)
            made = prepare_one(name, data_dir, _RAW_DIR.value)
            print(f"{name}: {'prepared' if made else 'already prepared'} in {data_dir}.")
    except (OSError, ValueError) as error:
        sys.exit(f"prepare_data: {error}")


if __name__ == "__main__":
    app.run(main)
