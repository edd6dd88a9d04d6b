#!/bin/sh
# A renderer that ends after its first answer, as one that somebody killed.
read -r opening
read -r question
echo '{"Ok":"a prompt"}'
