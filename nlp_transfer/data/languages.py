"""Language codes: which column holds the language that a model calls ``deu_Latn``, ``de_DE`` or ``de``."""

from __future__ import annotations

import re
from collections.abc import Iterable

_THREE = (
    "afr:af amh:am ara:ar arb:ar asm:as aze:az azj:az bel:be ben:bn bos:bs bul:bg cat:ca ceb:ceb "
    "ces:cs cym:cy dan:da deu:de ell:el eng:en epo:eo est:et eus:eu fas:fa fin:fi fra:fr gle:ga glg:gl "
    "guj:gu hat:ht hau:ha heb:he hin:hi hrv:hr hun:hu hye:hy ibo:ig ind:id isl:is ita:it jav:jv jpn:ja "
    "kan:kn kat:ka kaz:kk khk:mn khm:km kir:ky kor:ko kur:ku lao:lo lat:la lav:lv lvs:lv lit:lt ltz:lb "
    "mal:ml mar:mr mkd:mk mlg:mg mlt:mt mon:mn mri:mi msa:ms mya:my nep:ne npi:ne nld:nl nno:nn nob:nb "
    "nor:no ory:or pan:pa pes:fa pol:pl por:pt prs:fa pus:ps ron:ro rus:ru sin:si slk:sk slv:sl snd:sd "
    "som:so spa:es sqi:sq als:sq srp:sr sun:su swa:sw swh:sw swe:sv tam:ta tat:tt tel:te tgk:tg tgl:tl "
    "tha:th tur:tr uig:ug ukr:uk urd:ur uzb:uz uzn:uz vie:vi xho:xh yid:yi ydd:yi yor:yo zho:zh zsm:ms "
    "zul:zu"
)
_TWO = dict(pair.split(":") for pair in _THREE.split())


def language(code: str) -> str:
    """The language of a code, in its shortest spelling, without script and region.

    Example:
        >>> language("deu_Latn"), language("pt-BR"), language("DE")
        ('de', 'pt', 'de')
    """
    first = re.split("[-_]", code.strip().lower())[0]
    return _TWO.get(first, first)


def names_of(code: str, names: Iterable[str]) -> list[str]:
    """The names that stand for the language ``code``: the same spelling, else the same language.

    Example:
        >>> names_of("deu_Latn", ["id", "de", "en"]), names_of("de", ["de", "de_CH"])
        (['de'], ['de'])
    """
    names = list(names)
    for spelling in (str, str.casefold, language):
        if found := [name for name in names if spelling(name) == spelling(code)]:
            return found
    return []
