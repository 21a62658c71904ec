"""A text to see what a model still knows."""

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
