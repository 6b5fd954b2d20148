"""Words and short texts of which the prompts are composed."""

from __future__ import annotations

THINGS = (
    "a bicycle", "a bridge", "a candle", "a clock", "a compass", "a cactus", "a comet", "a glacier",
    "a greenhouse", "a harbour", "a hammer", "a kite", "a kettle", "a lens", "a library", "a lock",
    "a magnet", "a map", "a microscope", "a mirror", "a mushroom", "a passport", "a pencil",
    "a piano", "a pulley", "a rainbow", "a reef", "a river delta", "a rocket", "a sail",
    "a satellite", "a sewing machine", "a spring", "a telescope", "a thermometer", "a tornado",
    "a tram", "a tunnel", "an umbrella", "a violin", "a volcano", "a water wheel", "a windmill",
    "a zip", "an anchor", "an echo", "an elevator", "an engine", "an onion", "an owl",
)  # fmt: skip

SUBJECTS = (
    "photosynthesis", "gravity", "inflation", "democracy", "the water cycle", "electricity",
    "evolution", "recycling", "friction", "the tides", "memory", "sleep", "trade", "insurance",
    "probability", "the seasons", "soil", "fermentation", "vaccines", "sound", "colour",
    "migration of birds", "the moon", "earthquakes", "bread", "glass", "paper", "steel", "money",
    "maps", "chess", "poetry", "perspective in painting", "rhythm in music", "teamwork",
    "procrastination", "curiosity", "urban gardening", "bees", "coral", "compost", "batteries",
    "solar power", "encryption", "spreadsheets", "search engines", "the printing press",
    "the steam engine", "the Silk Road", "ancient Rome",
)  # fmt: skip

PLACES = (
    "a small fishing village", "a mountain hut", "an old lighthouse", "a busy railway station",
    "a quiet library", "a night market", "a desert town", "a botanical garden", "a flooded mine",
    "an island without trees", "a school on a hill", "a bakery at dawn", "a space station",
    "a castle in ruins", "a harbour in winter", "a village of clockmakers", "a forest of birches",
    "a theatre after the show", "an airport in the fog", "a farm by the sea",
)  # fmt: skip

PEOPLE = (
    "Ada", "Bela", "Carlos", "Dana", "Emil", "Fatima", "Greta", "Hugo", "Ines", "Jonas", "Kira",
    "Luca", "Mira", "Nadia", "Oskar", "Petra", "Quentin", "Rosa", "Samir", "Tilda", "Umar", "Vera",
    "Wanda", "Xaver", "Yara", "Zeno",
)  # fmt: skip

JOBS = (
    "a baker", "a nurse", "a carpenter", "a pilot", "a gardener", "a teacher", "a fisherman",
    "a violin maker", "a bus driver", "a beekeeper", "a librarian", "a geologist", "a plumber",
    "a translator", "a lighthouse keeper", "a chess coach", "a tailor", "a photographer",
)  # fmt: skip

ACTIVITIES = (
    "learning a language", "planning a trip by train", "moving to a new flat", "growing tomatoes",
    "preparing for an exam", "giving a talk", "cooking for ten guests", "repairing a bicycle",
    "saving energy at home", "running a first marathon", "writing a letter of application",
    "starting a book club", "camping in the rain", "teaching a child to swim", "sleeping better",
    "keeping a diary", "painting a room", "choosing a laptop", "adopting a cat", "baking bread",
    "reading more books", "organising a street festival", "making new friends in a new city",
    "taking better photographs", "working from home", "building a bookshelf", "hiking in winter",
)  # fmt: skip

GOODS = (
    "apples", "notebooks", "candles", "marbles", "tickets", "eggs", "bricks", "stamps", "pencils",
    "oranges", "books", "plates", "buttons", "roses", "bottles", "coins",
)  # fmt: skip

CITIES = (
    "Lisbon", "Oslo", "Prague", "Cairo", "Lima", "Kyoto", "Nairobi", "Dublin", "Vienna", "Hanoi",
    "Quito", "Athens", "Warsaw", "Seoul", "Tunis", "Bern",
)  # fmt: skip

COUNTRIES = (
    "France", "Japan", "Brazil", "Egypt", "Canada", "Norway", "Kenya", "Italy", "India", "Peru",
    "Greece", "Poland", "Australia", "Mexico", "Turkey", "Portugal", "Vietnam", "Chile",
)  # fmt: skip

ANIMALS = (
    "an elephant", "an octopus", "a penguin", "a bat", "a salmon", "a honeybee", "a wolf",
    "a camel", "a chameleon", "a hedgehog", "a whale", "a spider", "a crow", "a frog", "a squirrel",
    "a dolphin", "a tortoise", "a hummingbird",
)  # fmt: skip

TASKS = (
    ("returns the largest number of a list", "largest"),
    ("counts the vowels of a string", "count_vowels"),
    ("says whether a word is a palindrome", "is_palindrome"),
    ("reverses the words of a sentence", "reverse_words"),
    ("adds up the even numbers of a list", "sum_even"),
    ("computes the factorial of a number", "factorial"),
    ("returns the first n Fibonacci numbers", "fibonacci"),
    ("turns degrees Celsius into Fahrenheit", "to_fahrenheit"),
    ("removes duplicates from a list and keeps its order", "unique"),
    ("finds the average of a list of numbers", "average"),
    ("says whether a number is prime", "is_prime"),
    ("counts how often each word occurs in a text", "word_counts"),
    ("merges two sorted lists", "merge_sorted"),
    ("finds the longest word of a sentence", "longest_word"),
    ("says whether two words are anagrams", "are_anagrams"),
    ("computes the greatest common divisor of two numbers", "gcd"),
    ("flattens a list of lists", "flatten"),
    ("sorts a list of names by their length", "sort_by_length"),
    ("says whether a year is a leap year", "is_leap_year"),
    ("returns the position of a value in a sorted list by binary search", "binary_search"),
    ("draws a triangle of stars with n rows", "triangle"),
    ("converts a number to binary digits", "to_binary"),
    ("rotates a list by k places", "rotate"),
    ("checks whether the brackets of a string are balanced", "balanced"),
)  # fmt: skip

LANGUAGES = ("Python", "Python", "Python", "JavaScript", "Java", "C")

TEXTS = (
    "The old ferry crosses the bay four times a day. In summer it carries cyclists and families, "
    "in winter mostly letters and bread. Last year the town bought an electric motor for it, and "
    "since then passengers say that they can hear the gulls again.",
    "Our school garden began with three tomato plants on a window sill. Today there are twelve "
    "beds, a pond and a shed that the older pupils built themselves. Every Thursday the cook comes "
    "to pick herbs, and the youngest class keeps a record of what was planted where.",
    "The museum closes its main hall for repairs from March to May. The roof has leaked for years, "
    "and two paintings had to be moved already. Visitors can still see the collection of clocks in "
    "the east wing, and tickets cost half as much as usual.",
    "On Monday the bus from the station was late because a tree had fallen on the road. Some "
    "passengers walked the last two kilometres. The driver helped to clear the branches, and the "
    "first lesson at the school began half an hour later than planned.",
    "A small bakery in the harbour sells its bread until noon only. The owner starts at three in "
    "the morning and uses a sourdough that her grandfather began. When the bread is gone she locks "
    "the door, rides her bicycle to the beach and swims, whatever the weather.",
    "The village has had no shop for six years. Now two neighbours have turned an old garage into "
    "one that has no staff: customers take what they need, write it in a book and pay at the end "
    "of the month. So far hardly anything has gone missing.",
    "Researchers counted owls in the valley for ten winters. In the first years they found about "
    "forty pairs, lately only half as many. They suspect that mild winters bring less snow, under "
    "which mice hide, and that the owls move higher up the mountains.",
    "The library lends more than books. Since spring there are tools, musical instruments and even "
    "a telescope. The most popular thing is a sewing machine, for which people wait three weeks. "
    "The librarian repairs what comes back broken on Friday afternoons.",
    "When the river rose in April, the people of the lower town carried furniture upstairs and "
    "filled bags with sand. The bridge was closed for two days. Nobody was hurt, but the cellar of "
    "the town hall, where the archive lay, was full of water.",
    "The new tram line connects the hospital with the university in eleven minutes. It took five "
    "years to build and cost more than was planned. In its first month it carried twice as many "
    "passengers as expected, and the city is thinking of a second line.",
    "Each autumn the orchard invites the town to pick apples. Half of the harvest goes to those "
    "who pick, the other half is pressed to juice. This year frost in May destroyed many blossoms, "
    "so that the party was small, but the juice was sweeter than ever.",
    "The clock on the tower has been wrong since it was struck by lightning. Some think that it "
    "should be repaired, others have grown fond of it. The mayor promised a vote, and until then "
    "a paper sign below it says: please ask somebody with a watch.",
)

MESSAGES = (
    "hey, cant come tmrw, trains r cancelled again. can we do friday instead?",
    "the report is late because nobody sent me the numbers, i asked three times",
    "u left the window open and now the floor is wet, pls be more careful",
    "i want my money back, the lamp broke after two days and nobody answers the phone",
    "sorry i forgot ur birthday, i was at my sisters place and lost track of the days",
    "meeting was a waste of time, next time send an email",
    "we need someone for saturday, can u work? i know its short notice",
    "your music is too loud at night, my kids cant sleep",
    "the heating in room four doesnt work and the class is freezing",
    "i didnt understand the homework at all, can somebody explain number three",
)
