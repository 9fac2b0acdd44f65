"""The words that nobody has learned from: what everything is tested with."""

from demo.shop.words.words import Words

HELDOUT = Words(
    first_names=(
        *("Marta", "Nils", "Oscar", "Paula", "Quentin", "Rosa", "Stefan", "Tara", "Umar", "Vera"),
        *("Wendy", "Zoe"),
    ),
    last_names=(
        *("Keller", "Larsen", "Martin", "Novak", "Okafor", "Park", "Quinn", "Romero", "Sato", "Turner"),
        *("Ueda", "Vogel"),
    ),
    products=(
        *("floor lamp", "water jug", "grey pillow", "alarm clock", "camping stool", "laptop bag"),
        *("silk tie", "pepper grinder", "frying pan", "puzzle", "ladder", "picnic basket"),
    ),
    problems={
        "delivery": (
            "I have been waiting for days for my {product}, order {order}.",
            "The {product} that I bought, order {order}, is still not here.",
            "No parcel has arrived for order {order}, the {product}.",
        ),
        "damage": (
            "My {product} from order {order} is damaged.",
            "The {product} was broken when I unpacked order {order}.",
            "One side of the {product} is cracked, order {order}.",
        ),
        "mixup": (
            "In the parcel of order {order} was a wrong {product}.",
            "I did not order this {product}. My order {order} was for another one.",
            "The {product} you sent for order {order} has the wrong size.",
        ),
        "billing": (
            "You charged my card twice for order {order}, the {product}.",
            "The amount on the bill for the {product} is wrong, order {order}.",
            "I paid too much for the {product} of order {order}, says my bank.",
        ),
    },
    wishes={
        "trace": ("Please check where the parcel is.", "When will it arrive?"),
        "replacement": ("Please replace it.", "Could you send a new one?"),
        "refund": ("Please refund me.", "I would like my money back."),
        "invoice": ("Please send me a correct invoice.", "I want the invoice to be corrected."),
    },
    hurry={
        "high": ("Please hurry, I need it tomorrow.", "It is for a party on Saturday.", "It is very urgent."),
        "normal": ("",),
        "low": ("I am not in a hurry.", "There is plenty of time.", "No rush."),
    },
)
