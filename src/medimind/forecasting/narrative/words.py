"""Words that claim something beside numbers."""

from __future__ import annotations

import re

from medimind.forecasting.narrative.facts import FALLING, RISING, SAME

DIRECTIONS = {
    **dict.fromkeys(
        ("rise", "rises", "rising", "rose", "increase", "increases", "increasing", "increased",
         "climb", "climbs", "climbing", "higher", "upward", "upwards", "grow", "grows", "growing"),
        RISING,
    ),
    **dict.fromkeys(
        ("fall", "falls", "falling", "fell", "decline", "declines", "declining", "declined",
         "decrease", "decreases", "decreasing", "decreased", "drop", "drops", "dropping",
         "dropped", "downward", "downwards", "reduce", "reduced", "shrink", "shrinks"),
        FALLING,
    ),
    **dict.fromkeys(
        ("stable", "unchanged", "steady", "stays", "constant", "same", "plateau", "plateaus"), SAME
    ),
    **dict.fromkeys(
        ("worsen", "worsens", "worsening", "worsened", "worse", "deteriorate", "deteriorates",
         "deteriorating", "deterioration", "progresses", "progressing"),
        "worse",
    ),
    **dict.fromkeys(
        ("improve", "improves", "improving", "improved", "improvement", "recover", "recovers",
         "recovering"),
        "better",
    ),
}  # fmt: skip
NEGATIONS = frozenset({"not", "no", "never", "without", "neither", "nor", "hardly", "unlikely"})
UNTRACEABLE = frozenset(
    {"half", "third", "quarter", "twice", "double", "doubled", "doubles", "triple", "tripled",
     "halved", "halves", "tenfold", "twofold", "threefold", "dozen", "dozens", "hundreds",
     "thousands", "million", "majority", "minority", "most", "few", "several", "tomorrow",
     "yesterday"}
)  # fmt: skip
ALLOWED_CAPITALS = frozenset({"I", "The", "A", "In", "Insufficient", "JSON", "MediMind"})

_CLINICAL = re.compile(
    r".{2,}(itis|osis|emia|aemia|oma|pathy|ectomy|otomy|statin|pril|sartan|formin|gliptin|gliflozin"
    r"|glutide|olol|dipine|mab|nib|cillin|mycin|azole|parin|xaban|uria|plegia|algia|megaly)",
    re.IGNORECASE,
)
_CLINICAL_WORDS = frozenset(
    {"diabetes", "diabetic", "cancer", "tumour", "tumor", "insulin", "dialysis", "transplant",
     "transplantation", "hypertension", "stroke", "infarction", "hepatitis", "cirrhosis", "death",
     "dies", "die", "mortality", "hospital", "hospitalisation", "surgery", "ckd", "hiv",
     "parkinson", "alzheimer", "dementia", "depression", "obesity", "pregnancy", "sepsis",
     "steroid", "steroids", "aspirin", "warfarin", "heparin", "kidney", "liver", "heart", "lung",
     "failure", "asthma", "copd", "smoking", "smoker"}
)  # fmt: skip
_PLAIN = frozenset({"diagnosis", "prognosis", "hypothesis", "emphasis"})


def looks_clinical(word: str) -> bool:
    """Whether a word names a disease, a drug, an organ or an outcome."""
    lower = word.lower()
    if lower in _PLAIN:
        return False
    return lower in _CLINICAL_WORDS or _CLINICAL.fullmatch(lower) is not None
