/* A hipRTC whose code is "FAKE:" and the architecture, for the fake HIP runtime.
 *
 *   rtc=refuse             every source is refused, with a complaint
 *   rtc=huge               the code is said to be larger than any code is */

struct program {
    char gfx[64];
    int refused;
};

static int asked(const char *what) {
    char value[32];
    return script_text_of("rtc", value, sizeof value) && strcmp(value, what) == 0;
}

int hiprtcCreateProgram(void **program, const char *source, const char *name, int headers, const char **texts,
                        const char **names) {
    script_enter(__func__);
    (void)texts, (void)names;
    if (strstr(source, "product_f32") == NULL || name == NULL || headers != 0) return 3;
    *program = calloc(1, sizeof(struct program));
    return *program == NULL;
}

int hiprtcCompileProgram(void *program, int count, const char **options) {
    script_enter(__func__);
    struct program *made = program;
    for (int option = 0; option < count; ++option)
        if (strncmp(options[option], "--offload-arch=", 15) == 0)
            snprintf(made->gfx, sizeof made->gfx, "%s", options[option] + 15);
    made->refused = asked("refuse") || made->gfx[0] == 0;
    return made->refused ? 6 : 0;
}

int hiprtcGetCodeSize(void *program, size_t *size) {
    script_enter(__func__);
    *size = asked("huge") ? (size_t)1 << 40 : strlen(((struct program *)program)->gfx) + 6;
    return 0;
}

int hiprtcGetCode(void *program, char *code) {
    script_enter(__func__);
    sprintf(code, "FAKE:%s", ((struct program *)program)->gfx);
    return 0;
}

static const char complaint[] = "kernels.hip:1:1: error: unknown target\033[0m";

int hiprtcGetProgramLogSize(void *program, size_t *size) {
    (void)program;
    *size = sizeof complaint;
    return 0;
}

int hiprtcGetProgramLog(void *program, char *log) {
    (void)program;
    memcpy(log, complaint, sizeof complaint);
    return 0;
}

int hiprtcDestroyProgram(void **program) {
    free(*program);
    *program = NULL;
    return 0;
}
