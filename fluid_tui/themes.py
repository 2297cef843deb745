"""The colours: calm by default, every one with a meaning. The stylesheets know only these names.

Every word has a contrast of 4.5 (WCAG 2, AA) to its ground, also under the cursor and when it is stale.
"""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="fluid-dark",
    primary="#7aa2d6",
    secondary="#8fa1b8",
    accent="#7fc1c9",
    success="#8cc07d",
    warning="#e0b062",
    error="#e07a72",
    foreground="#cfd6df",
    background="#14171c",
    surface="#171b21",
    panel="#1d222a",
    dark=True,
    variables={
        "line": "#333b47",
        "line-focus": "#5b7ea8",
        "faint": "#8b96a5",
        "strong": "#f0f3f7",
        "cursor-ground": "#252d38",
        "added-ground": "#17291c",
        "added-word": "#2b5233",
        "removed-ground": "#2e1b1d",
        "removed-word": "#63302f",
        "added-ink": "#cfd6df",
        "removed-ink": "#cfd6df",
        "word-ink": "#cfd6df",
        "void-ground": "#191d23",
        "stale": "#8b95a3",
    },
)

LIGHT = Theme(
    name="fluid-light",
    primary="#2b5f9e",
    secondary="#4d5b6b",
    accent="#12727c",
    success="#2a7328",
    warning="#8a5a00",
    error="#b3261e",
    foreground="#23282f",
    background="#fafafa",
    surface="#ffffff",
    panel="#eef1f4",
    dark=False,
    variables={
        "line": "#c9d0d8",
        "line-focus": "#2b5f9e",
        "faint": "#5b6774",
        "strong": "#000000",
        "cursor-ground": "#e6edf5",
        "added-ground": "#e4f4e4",
        "added-word": "#b2dfb4",
        "removed-ground": "#fbe7e6",
        "removed-word": "#f3bab6",
        "added-ink": "#23282f",
        "removed-ink": "#23282f",
        "word-ink": "#23282f",
        "void-ground": "#f1f3f5",
        "stale": "#5f6b78",
    },
)

CONTRAST = Theme(
    name="fluid-contrast",
    primary="#00ffff",
    secondary="#ffffff",
    accent="#00ffff",
    success="#00ff00",
    warning="#ffff00",
    error="#ff6060",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    dark=True,
    variables={
        "line": "#ffffff",
        "line-focus": "#ffff00",
        "faint": "#d8d8d8",
        "strong": "#ffffff",
        "cursor-ground": "#003a6b",
        "added-ground": "#003300",
        "added-word": "#006b00",
        "removed-ground": "#4a0000",
        "removed-word": "#8f0000",
        "added-ink": "#ffffff",
        "removed-ink": "#ffffff",
        "word-ink": "#ffffff",
        "void-ground": "#000000",
        "stale": "#b0b0b0",
    },
)

COLOUR_BLIND = Theme(
    name="fluid-colour-blind",
    primary="#56b4e9",
    secondary="#b8c4d0",
    accent="#56b4e9",
    success="#56b4e9",  # blue and orange differ for every kind of colour blindness
    warning="#f0e442",
    error="#e69f00",
    foreground="#d8dee6",
    background="#14171c",
    surface="#171b21",
    panel="#1d222a",
    dark=True,
    variables={
        "line": "#333b47",
        "line-focus": "#56b4e9",
        "faint": "#8e99a8",
        "strong": "#ffffff",
        "cursor-ground": "#252d38",
        "added-ground": "#122a3c",
        "added-word": "#1f5a86",
        "removed-ground": "#33270c",
        "removed-word": "#7a5606",
        "added-ink": "#d8dee6",
        "removed-ink": "#d8dee6",
        "word-ink": "#d8dee6",
        "void-ground": "#191d23",
        "stale": "#8b95a3",
    },
)

SIXTEEN = Theme(
    name="fluid-16",
    primary="#55ffff",
    secondary="#aaaaaa",
    accent="#55ffff",
    success="#55ff55",
    warning="#ffff55",
    error="#ff8080",  # drawn in bright red, the nearest
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    dark=True,
    variables={
        "line": "#aaaaaa",
        "line-focus": "#55ffff",
        "faint": "#aaaaaa",
        "strong": "#ffffff",
        "cursor-ground": "#0000aa",
        "added-ground": "#000000",
        "added-word": "#00aa00",
        "removed-ground": "#000000",
        "removed-word": "#ff8080",
        "added-ink": "#55ff55",
        "removed-ink": "#ff8080",
        "word-ink": "#000000",
        "void-ground": "#000000",
        "stale": "#aaaaaa",
    },
)
"""For terminals with 16 colours: each is one of those, because the nearest ones of calmer themes are grey."""

THEMES = (DARK, LIGHT, CONTRAST, COLOUR_BLIND, SIXTEEN)
