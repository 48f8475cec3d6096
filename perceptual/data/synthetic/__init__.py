"""Items judged by a simulated observer: photographs, distortions, and how items are made of them."""
