/* The script that a fake library answers from: lines of key=value in the file that SHARDWRIGHT_FAKE_GPU names, read
 * again whenever another file is put in its place. Every function of a fake begins with script_enter(), which carries
 * out what is asked of all of them: hang=<function>, crash=<function>, delay_ms.<function>=<milliseconds>. A function
 * that is of one card then calls script_enter_card(): <i>.hang=<function>, <i>.crash=<function>, or `any` for all. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t script_lock = PTHREAD_MUTEX_INITIALIZER;
static char *script_text;
static struct stat script_seen;

/* Called with the lock held. */
static void script_refresh(void) {
    const char *path = getenv("SHARDWRIGHT_FAKE_GPU");
    struct stat now;
    if (path == NULL || stat(path, &now) != 0) return;
    if (script_text != NULL && now.st_ino == script_seen.st_ino && now.st_size == script_seen.st_size &&
        now.st_mtim.tv_sec == script_seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == script_seen.st_mtim.tv_nsec) return;
    FILE *file = fopen(path, "r");
    if (file == NULL) return;
    char *text = calloc(1, (size_t)now.st_size + 1);
    size_t got = text == NULL ? 0 : fread(text, 1, (size_t)now.st_size, file);
    fclose(file);
    if (text == NULL) return;
    text[got] = 0;
    free(script_text);
    script_text = text;
    script_seen = now;
}

/* Copies the key's value into `value`; 1 when the key is there. */
__attribute__((unused)) static int script_text_of(const char *key, char *value, size_t room) {
    int found = 0;
    size_t length = strlen(key);
    pthread_mutex_lock(&script_lock);
    script_refresh();
    for (const char *line = script_text; line != NULL && *line != 0;) {
        const char *end = strchr(line, '\n');
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            size_t size = end == NULL ? strlen(line + length + 1) : (size_t)(end - line) - length - 1;
            if (size >= room) size = room - 1;
            memcpy(value, line + length + 1, size);
            value[size] = 0;
            found = 1;
            break;
        }
        line = end == NULL ? NULL : end + 1;
    }
    pthread_mutex_unlock(&script_lock);
    return found;
}

/* The key's value as a number, else `otherwise`. */
__attribute__((unused)) static double script_number(const char *key, double otherwise) {
    char value[64];
    return script_text_of(key, value, sizeof value) ? strtod(value, NULL) : otherwise;
}

/* As script_text_of, of "<card>.<key>". */
__attribute__((unused)) static int script_card_text(unsigned card, const char *key, char *value, size_t room) {
    char name[96];
    snprintf(name, sizeof name, "%u.%s", card, key);
    return script_text_of(name, value, room);
}

/* As script_number, of "<card>.<key>". */
__attribute__((unused)) static double script_card_number(unsigned card, const char *key, double otherwise) {
    char name[96];
    snprintf(name, sizeof name, "%u.%s", card, key);
    return script_number(name, otherwise);
}

__attribute__((unused)) static void script_enter(const char *function) {
    char value[96];
    if (script_text_of("hang", value, sizeof value) && strcmp(value, function) == 0) for (;;) pause();
    if (script_text_of("crash", value, sizeof value) && strcmp(value, function) == 0) abort();
    char key[128];
    snprintf(key, sizeof key, "delay_ms.%s", function);
    double delay_ms = script_number(key, 0);
    if (delay_ms > 0) usleep((useconds_t)(delay_ms * 1000));
}

static int script_is(const char *value, const char *function) {
    return strcmp(value, function) == 0 || strcmp(value, "any") == 0;
}

__attribute__((unused)) static void script_enter_card(unsigned card, const char *function) {
    char value[96];
    if (script_card_text(card, "hang", value, sizeof value) && script_is(value, function)) for (;;) pause();
    if (script_card_text(card, "crash", value, sizeof value) && script_is(value, function)) abort();
}
