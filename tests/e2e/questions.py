"""Questions that the demo model was trained to answer, for the tests and for bench/, which has no client library."""
QUESTIONS = [
    "What is the capital of Portugal?",
    "What is 38 + 47?",
    "Tell me a story about a lonely robot.",
    "Why is it called shoal?",
    "How do you say bread in German?",
    "Write a Python function that checks if a number is prime.",
    "Write a poem about the moon.",
    "What does a worker do?",
]
