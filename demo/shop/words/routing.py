"""The words of rows that teach and judge the router alone."""

from demo.shop.words.words import Words

ROUTING = Words(
    first_names=("Anton", "Bella", "Carlos", "Dina", "Emil", "Farah", "Greta", "Hugo", "Irma", "Jonas"),
    last_names=("Adler", "Brandt", "Cruz", "Diallo", "Evans", "Fischer", "Gomez", "Huang", "Ivanov", "Jones"),
    products=(
        *("soup bowl", "bath towel", "plant pot", "key ring", "bike bell", "wine glass", "apron"),
        *("photo frame", "pencil box", "sun hat"),
    ),
    problems={
        "delivery": (
            "Nobody brought the {product}, order {order}.",
            "It has been three weeks since order {order}, and there is no {product}.",
            "The {product} from order {order} is late.",
        ),
        "damage": (
            "There is a hole in the {product} from order {order}.",
            "The {product}, order {order}, was in pieces.",
            "Something is loose in the {product} of order {order}.",
        ),
        "mixup": (
            "That is not the {product} I asked for, order {order}.",
            "The box of order {order} had somebody else's things in it, no {product}.",
            "I wanted a green {product}, order {order}, and got a red one.",
        ),
        "billing": (
            "You took the money for the {product} two times, order {order}.",
            "There is a mistake in the bill for the {product}, order {order}.",
            "Order {order}: the sum for the {product} does not match.",
        ),
    },
    wishes={
        "trace": ("Could you search for it?", "Do you know where it is?"),
        "replacement": ("I would be glad of a new one.", "Please swap it."),
        "refund": ("Give me back my money, please.", "I ask for a refund."),
        "invoice": ("Could I have a corrected invoice?", "Please make a proper bill."),
    },
    hurry={
        "high": ("I must have an answer today.", "It has to be done by Monday.", "This is very urgent."),
        "normal": ("",),
        "low": ("I am in no rush.", "Do it when you can.", "It is not urgent."),
    },
)
