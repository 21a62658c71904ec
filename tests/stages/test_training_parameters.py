import textwrap

from kfp_osft.stages.training_parameters import one_line_each


def test_an_entry_of_several_lines_becomes_one_and_the_text_stays():
    docstring = textwrap.dedent("""\
        What it does,
        in two lines.

        Args:
            first: One line
                and another
                  and a third.
            second: One.

        Returns:
            result: Two
                lines.

        Raises:
            ValueError: two
                lines.
        """)

    assert one_line_each(docstring) == textwrap.dedent("""\
        What it does,
        in two lines.

        Args:
            first: One line and another and a third.
            second: One.

        Returns:
            result: Two lines.

        Raises:
            ValueError: two
                lines.
        """)
