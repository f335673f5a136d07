"""What the scripts that execute documentation have in common."""


class Failed(Exception):
    pass


def blocks(text):
    """Line number, language and text of each fenced block."""
    found, opened = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if opened is None:
                opened = (number, line[3:].strip(), [])
            else:
                found.append((opened[0], opened[1], "\n".join(opened[2]) + "\n"))
                opened = None
        elif opened is not None:
            opened[2].append(line)
    if opened is not None:
        raise Failed(f"the block of line {opened[0]} does not end")
    return found
