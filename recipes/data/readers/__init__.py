"""Readers of medical data sets in the formats that their authors publish, one file a format; `READERS` by kind.

Left out: downloading beside `datasets` (the files come with licences to be read by a person first), and MedXpertQA's
and other sets' images.
"""

from recipes.data.readers import (
    context,
    difficulty,
    ehr,
    examples,
    m23k,
    medcalc,
    medical_o1,
    mediq,
    medmcqa,
    medqa,
    medreason,
    medu1,
    medxpertqa,
    mmlu,
    mmlu_pro,
    pubmedqa,
    trec,
)
from recipes.data.readers.base import LeftOut, Reader

READERS: dict[str, Reader] = {
    module.READER.kind: module.READER
    for module in (
        medqa,
        medmcqa,
        mmlu,
        mmlu_pro,
        pubmedqa,
        medxpertqa,
        mediq,
        medcalc,
        medical_o1,
        medu1,
        medreason,
        m23k,
        trec,
        ehr,
        examples,
        difficulty,
        context,
    )
}

__all__ = ["READERS", "LeftOut", "Reader"]
