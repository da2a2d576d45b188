"""The form of ops that is chosen: for the program, and for blocks of code in one context of it.

``choice.form`` is the one to take now. It is an attribute of the module because torch.compile can
trace no ``ContextVar``; it can read a module, and reads it again before it takes a graph that it
has already.
"""
from contextvars import ContextVar

program = 'fast'
# For compilers that cannot ask for `form`: what was chosen last, in whichever context.
last = program
# The forms of the blocks that the code is in, the innermost last. A context has its own, be it a
# thread's or an asynchronous task's.
blocks: ContextVar[tuple[str, ...]] = ContextVar('mmlit.ops.form', default=())


def __getattr__(name: str) -> str:
    if name != 'form':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    inside = blocks.get()
    return inside[-1] if inside else program


def set_program(form: str) -> None:
    global program, last
    program = last = form


def enter(form: str) -> None:
    global last
    blocks.set((*blocks.get(), form))
    last = form


def leave() -> None:
    global last
    blocks.set(blocks.get()[:-1])
    last = __getattr__('form')
