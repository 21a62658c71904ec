"""Texts to see what a model still knows, of kinds that a fine-tuning seldom is about.

Our own passages are under this project's licence. The technical one is from the documentation that every CPython brings
(pydoc_data.topics, Python Software Foundation licence), so it takes no room here; it differs a little between versions
of Python, which does not matter where two models are compared in one process.
"""

#: General English, for the loss on what a model knew before a training.
GENERAL_TEXT = """\
A river begins as a small stream, often high in the hills where rain and melting snow collect \
between the rocks. On its way down it is joined by other streams, and with every one of them it \
becomes wider and slower. In the mountains the water is fast enough to carry stones, and it cuts a \
narrow valley into the ground. In the plain it can only carry sand and mud, and it leaves them \
behind wherever it turns. Over many years these turns grow into wide loops, and farmers on both \
sides have learned that the soil beside a river is better than the soil a mile away.

People have always built their towns near such places. The river gave them water to drink, fish to \
eat and a road for their boats. Later it turned the wheels of their mills, and today it cools their \
power stations. But a river that is useful is also dangerous. After a long winter the snow may melt \
within a few days, and then the water rises over the banks and into the streets. For this reason \
many cities have built walls along the shore, while others have given some of the land back, so that \
a flood has room to spread before it reaches the houses.
"""
_FACTS = """\
Water freezes at zero degrees Celsius and boils at one hundred at sea level. On a high mountain the air is thinner, so \
it boils sooner, and an egg takes longer to cook. The Earth turns once a day and travels around the Sun once a year; \
because its axis is tilted, the north has summer while the south has winter. Light from the Sun needs about eight \
minutes to reach us. The heart pumps blood through the body, the lungs take oxygen from the air, and the kidneys clean \
the blood. The capital of France is Paris, that of Japan is Tokyo, and that of Brazil is Brasilia, not Rio de Janeiro \
as many people think. Shakespeare wrote Hamlet; Cervantes wrote Don Quixote. The First World War began in 1914 and the \
Second ended in 1945. In 1969 two people walked on the Moon for the first time.
"""
_REASONING = """\
Anna has twelve apples. She gives a third of them to Ben and eats two herself. A third of twelve is four, so she has \
eight left after giving, and six after eating. A train that leaves at 9:40 and takes two hours and thirty-five minutes \
arrives at 12:15. If all roses are flowers and some flowers fade quickly, it does not follow that some roses fade \
quickly. If it rains, the street gets wet; the street is not wet; therefore it does not rain. 7 + 8 = 15, 15 * 4 = 60, \
60 - 13 = 47, 47 / 2 = 23.5.
"""
_DIALOGUE = """\
"Excuse me, is this seat taken?" asked the old man. "No, please sit down," said the girl and moved her bag. For a \
while they looked out of the window without a word. Then he smiled. "My wife and I took this train every summer. She \
always wanted to see the lake first." "Is she not with you today?" "She is waiting at the station," he said, "with our \
grandchildren, and with a cake that is probably far too large."
"""
_CODE = """\
def read_scores(path):
    scores = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            name, _, value = line.strip().partition(",")
            if not value:
                continue
            scores.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in scores.items()}

SELECT customer.name, COUNT(*) AS orders FROM customer
JOIN orders ON orders.customer_id = customer.id
WHERE orders.created_at >= '2024-01-01' GROUP BY customer.name ORDER BY orders DESC LIMIT 10;
"""
_LANGUAGES = """\
Der Bahnhof liegt im Zentrum der Stadt, und von dort sind es nur zehn Minuten zu Fuß bis zum Museum. Wer am Abend \
ankommt, sieht zuerst die beleuchtete Brücke über den Fluss.

La bibliothèque ouvre à neuf heures et ferme à dix-huit heures, sauf le dimanche. On peut y lire les journaux, \
emprunter des livres et travailler au calme.

El mercado empieza muy temprano por la mañana. Los agricultores traen frutas y verduras de los pueblos cercanos, y a \
mediodía casi todo está vendido.
"""
_TOPICS = ("assignment", "booleans", "calls", "comparisons", "exceptions", "naming", "typesseq", "with")
_CHARACTERS = 1_200


def general_texts() -> dict[str, list[str]]:
    """The passages by kind; together about 4,000 tokens of a common tokenizer."""
    texts = {
        "English prose": [GENERAL_TEXT, _DIALOGUE],
        "facts and reasoning": [_FACTS, _REASONING],
        "German, French, Spanish": [_LANGUAGES],
        "code": [_CODE],
    }
    if documentation := _python_documentation():
        texts["Python's documentation"] = documentation
    return texts


def _python_documentation() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions split it off
        return []
    return [topics[name][:_CHARACTERS] for name in _TOPICS if name in topics]
