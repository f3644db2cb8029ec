"""x"""
from ordito.spec import Spec
def text(spec: Spec, title: str) -> str:
    return title
