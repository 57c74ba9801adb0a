"""Seven tasks on real data, each `python -m demo NAME`: the rows and the score of each are a file of its name here."""

from demo.examples.example import Example
from demo.examples.image_classification import ImageClassification
from demo.examples.imbalanced_binary import ImbalancedBinary
from demo.examples.language_modelling import LanguageModelling
from demo.examples.many_classes import ManyClasses
from demo.examples.multi_label import MultiLabel
from demo.examples.segmentation import Segmentation
from demo.examples.token_classification import TokenClassification

EXAMPLES: dict[str, Example] = {
    "image_classification": ImageClassification(),
    "imbalanced_binary": ImbalancedBinary(),
    "multi_label": MultiLabel(),
    "token_classification": TokenClassification(),
    "segmentation": Segmentation(),
    "language_modelling": LanguageModelling(),
    "many_classes": ManyClasses(),
}
