"""SQL: the query that looks up what a colleague wants to know about a letter."""

from demo.shop.database import rows_of, shop_database
from demo.shop.letter import Letter
from demo.shop.skills.skill import Skill, asks

_QUERIES = {
    "status": "SELECT status FROM orders WHERE number = {order};",
    "paid": "SELECT paid FROM orders WHERE number = {order};",
    "stock": "SELECT stock FROM products WHERE name = '{product}';",
    "history": "SELECT number FROM orders WHERE customer = '{customer}';",
    "buyers": "SELECT customer FROM orders WHERE product = '{product}';",
}


def _reply(letter: Letter, about: str) -> str:
    return _QUERIES[about].format(order=letter.order, product=letter.product, customer=letter.customer)


def _check(letter: Letter, about: str, text: str) -> bool:
    """Whether the shop's database gives the same rows for it as for the reference."""
    with shop_database(letter) as connection:
        found = rows_of(connection, text)
        return found is not None and found == rows_of(connection, _reply(letter, about))


SQL = Skill(
    name="sql",
    asks={
        "train": (
            *asks(
                "Query the status of the order.",
                "SQL: where does this order stand?",
                "Look up in the database whether it was sent.",
                "Write SQL that gets the order's state.",
                "Database query: has it been delivered?",
                about="status",
            ),
            *asks(
                "Query what was paid.",
                "SQL for the sum that they paid.",
                "Look up the payment in the database.",
                "Write SQL that gets the money they paid.",
                "Database query: what did this order cost them?",
                about="paid",
            ),
            *asks(
                "Query how many of these are in stock.",
                "SQL: do we have more of it?",
                "Look up the stock in the database.",
                "Write SQL that counts the pieces in stock.",
                "Database query: is any left?",
                about="stock",
            ),
            *asks(
                "Query all orders of this customer.",
                "SQL for what else they ordered.",
                "Look up this customer's orders in the database.",
                "Write SQL that lists the orders of this person.",
                "Database query: what have they ordered from us?",
                about="history",
            ),
            *asks(
                "Query who bought this product.",
                "SQL: which customers have the same one?",
                "Look up the buyers in the database.",
                "Write SQL that lists everybody who ordered it.",
                "Database query: who has this product too?",
                about="buyers",
            ),
        ),
        "routing": (
            *asks("Ask the database for the order's status.", "A query: was it sent?", about="status"),
            *asks("Ask the database what they paid.", "A query for the payment.", about="paid"),
            *asks("Ask the database about the stock.", "A query: is there another one?", about="stock"),
            *asks("Ask the database for their orders.", "A query for the orders they made.", about="history"),
            *asks("Ask the database who has bought it.", "A query for its buyers.", about="buyers"),
        ),
        "heldout": (
            *asks("Give me SQL for the order's status.", "Database: what is its status?", about="status"),
            *asks("Give me SQL for the amount paid.", "Database: how much did they pay?", about="paid"),
            *asks("Give me SQL for the stock of it.", "Database: how many are left in stock?", about="stock"),
            *asks(
                "Give me SQL for the customer's orders.",
                "Database: what orders has this customer?",
                about="history",
            ),
            *asks(
                "Give me SQL for everyone who bought it.",
                "Database: which customers bought this product?",
                about="buyers",
            ),
        ),
    },
    reply=_reply,
    check=_check,
)
