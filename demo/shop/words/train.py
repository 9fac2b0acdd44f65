"""The words that experts learn from."""

from demo.shop.words.words import Words

TRAIN = Words(
    first_names=(
        *("Priya", "Tom", "Ewa", "Kofi", "Laura", "Ahmed", "Ines", "Jack", "Mei", "Olga"),
        *("Ravi", "Sara", "Victor", "Yara", "Bruno", "Helen"),
    ),
    last_names=(
        *("Nair", "Baker", "Nowak", "Mensah", "Costa", "Hassan", "Lopez", "Reed", "Chen", "Petrova"),
        *("Singh", "Lind", "Moreau", "Haddad", "Rossi", "Ward"),
    ),
    products=(
        *("desk lamp", "teapot", "blue rug", "wall clock", "garden chair", "phone case", "wool scarf"),
        *("coffee mill", "bread knife", "toy train", "mirror", "rain coat", "book shelf", "candle set"),
    ),
    problems={
        "delivery": (
            "I am still waiting for the {product} of order {order}.",
            "My {product}, order {order}, has not come yet.",
            "Order {order}, a {product}, should have been here last week.",
            "The parcel of order {order} with the {product} never reached me.",
            "Two weeks ago I bought a {product}, order {order}, and nothing was delivered.",
        ),
        "damage": (
            "The {product} of order {order} arrived broken.",
            "I opened the box of order {order}, and the {product} has a crack.",
            "Your {product} fell apart on the first day. My order is {order}.",
            "Order {order}: the {product} came with a deep dent.",
            "The {product} does not work at all, order {order}.",
        ),
        "mixup": (
            "I got the wrong colour of {product} with order {order}.",
            "You sent me something else than the {product} of order {order}.",
            "Order {order} was for a {product}, but another thing was in the box.",
            "The {product} of order {order} is not the size that I chose.",
            "With order {order} came a different {product} from the one in your shop.",
        ),
        "billing": (
            "I was charged twice for the {product}, order {order}.",
            "The bill of order {order} is too high for one {product}.",
            "My card shows a wrong sum for the {product}, order {order}.",
            "Order {order}: I have paid for the {product}, and you ask for the money again.",
            "The price on the bill for the {product} is not the one of order {order}.",
        ),
    },
    wishes={
        "trace": (
            "Please find out where it is.",
            "Where is it now?",
            "Can you look for the parcel?",
            "Tell me when it will be here.",
        ),
        "replacement": (
            "Please send me a new one.",
            "I would like another one in its place.",
            "Can you exchange it?",
            "I want the right one.",
        ),
        "refund": (
            "I want my money back.",
            "Please pay me back.",
            "Can I have a refund?",
            "Kindly return what I paid.",
        ),
        "invoice": (
            "Please correct the invoice.",
            "I need a new invoice.",
            "Can you send me a bill that is right?",
            "Write the invoice again.",
        ),
    },
    hurry={
        "high": (
            "I need this by Friday.",
            "It is urgent.",
            "It was a gift for tomorrow.",
            "Please be quick, we leave on Sunday.",
        ),
        "normal": ("",),
        "low": (
            "There is no hurry.",
            "Take your time.",
            "Any day next month will do.",
            "It can wait.",
        ),
    },
)
