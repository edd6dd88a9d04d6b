/* libcuda.so.1: cards whose memory is main memory and whose kernels are C.
 *
 *   cards=<n>                     up to 16
 *   cuda.version=<n>              1000 * major + 10 * minor
 *   cuda.order=<i>,<i>,...        CUDA's order of the cards, where it is another than NVML's
 *   cuda.fails=<function>:<code>  that function returns that code for every card
 *   mismatch=1                    cuInit says CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
 *   <i>.name <i>.uuid <i>.pci <i>.memory <i>.used <i>.mig...   as in nvml.c; of a divided card the first slice is shown
 *   <i>.capability=90  <i>.sms  <i>.clock_khz  <i>.integrated=1  <i>.garbage
 *   <i>.cuda=<code>               what every use of the card's context returns
 *   <i>.lost=1                    as <i>.cuda=999; the card is not shown to a process that starts
 *   <i>.hang=<function> <i>.crash=<function>  as script.h says; not of the bus address, which is no card's to tell
 *   <i>.wrong=memory|product      what is read differs from what was written; a product has one wrong number
 *   peer.<i>.<j>=1                i may reach j's memory; peer_wrong=1: and what comes is not what was sent
 */
#include <math.h>
#include <sys/mman.h>
#define CARDS_MAX 16
#define BLOCKS_MAX 65536
#define SUCCESS 0
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define NO_DEVICE 100
#define INVALID_DEVICE 101
#define INVALID_IMAGE 200
#define INVALID_CONTEXT 201
#define NOT_FOUND 500
#define PEER_ACCESS_ALREADY_ENABLED 704

typedef unsigned long long address_t;
static struct block { address_t at; size_t bytes, mapped; unsigned card; } blocks[BLOCKS_MAX];
static size_t block_count, used_bytes[CARDS_MAX];
static int retained[CARDS_MAX], enabled[CARDS_MAX][CARDS_MAX];
/* A context is the address of its card's place. */
static char contexts[CARDS_MAX];
static __thread char *current;
static unsigned shown[CARDS_MAX], shown_count;

static unsigned enter(const char *function) {
    char value[256];
    script_enter(function);
    if (script_text_of("cuda.fails", value, sizeof value)) {
        char *colon = strchr(value, ':');
        if (colon != NULL) {
            *colon = 0;
            if (strcmp(value, function) == 0) return (unsigned)strtoul(colon + 1, NULL, 10);
        }
    }
    return SUCCESS;
}

#define ENTER() do { unsigned code = enter(__func__); if (code != SUCCESS) return code; } while (0)

/* The current context's card, or why it cannot be used. */
static unsigned card_in_use(unsigned *card, const char *function) {
    if (current == NULL) return INVALID_CONTEXT;
    *card = (unsigned)(current - contexts);
    script_enter_card(*card, function);
    if (script_card_number(*card, "lost", 0) != 0) return 999;
    return (unsigned)script_card_number(*card, "cuda", 0);
}

#define CARD(card) unsigned card; do { unsigned code = card_in_use(&card, __func__); if (code != SUCCESS) return code; } while (0)

unsigned cuInit(unsigned flags) {
    ENTER();
    char order[128];
    if (flags != 0) return INVALID_VALUE;
    if (script_number("mismatch", 0) != 0) return 803;
    unsigned cards = (unsigned)script_number("cards", 1);
    if (cards > CARDS_MAX) cards = CARDS_MAX;
    shown_count = 0;
    if (script_text_of("cuda.order", order, sizeof order)) {
        for (char *rest = NULL, *entry = strtok_r(order, ",", &rest); entry != NULL && shown_count < cards;
             entry = strtok_r(NULL, ",", &rest)) {
            unsigned card = (unsigned)strtoul(entry, NULL, 10);
            if (card < cards && script_card_number(card, "lost", 0) == 0) shown[shown_count++] = card;
        }
    } else {
        for (unsigned card = 0; card < cards; card++)
            if (script_card_number(card, "lost", 0) == 0) shown[shown_count++] = card;
    }
    return shown_count == 0 ? NO_DEVICE : SUCCESS;
}

unsigned cuDriverGetVersion(int *version) {
    ENTER();
    *version = (int)script_number("cuda.version", 12040);
    return SUCCESS;
}

unsigned cuDeviceGetCount(int *count) {
    ENTER();
    *count = (int)shown_count;
    return SUCCESS;
}

unsigned cuDeviceGet(int *device, int ordinal) {
    ENTER();
    if (ordinal < 0 || (unsigned)ordinal >= shown_count) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

#define DEVICE(card, device) \
    if ((device) < 0 || (unsigned)(device) >= shown_count) return INVALID_DEVICE; \
    unsigned card = shown[device]; \
    script_enter_card(card, __func__)

static int sliced(unsigned card) { return script_card_number(card, "mig", 0) > 0; }

static void give_text(unsigned card, const char *text, char *buffer, int room) {
    char kind[32];
    if (script_card_text(card, "garbage", kind, sizeof kind)) {
        if (strcmp(kind, "endless") == 0) { memset(buffer, 'A', (size_t)room); return; }
        text = strcmp(kind, "high") == 0 ? "\xff\xfe\xfd card" : "\x1b[2J\nname=\r\x07 card";
    }
    snprintf(buffer, (size_t)room, "%s", text);
}

unsigned cuDeviceGetName(char *buffer, int room, int device) {
    ENTER();
    DEVICE(card, device);
    char name[128];
    if (!script_card_text(card, "name", name, sizeof name)) strcpy(name, "NVIDIA H100 80GB HBM3");
    if (sliced(card)) snprintf(name + strlen(name), sizeof name - strlen(name), " MIG 1g.10gb");
    give_text(card, name, buffer, room);
    return SUCCESS;
}

static unsigned uuid_bytes(const char *text, unsigned char *bytes) {
    unsigned digits = 0;
    memset(bytes, 0, 16);
    for (const char *at = text + 4; *at != 0 && digits < 32; at++) {
        char digit[2] = {*at, 0};
        if (*at == '-') continue;
        bytes[digits / 2] |= (unsigned char)(strtoul(digit, NULL, 16) << (digits % 2 == 0 ? 4 : 0));
        digits++;
    }
    return SUCCESS;
}

static unsigned card_uuid(unsigned card, unsigned char *bytes) {
    char uuid[96];
    if (!script_card_text(card, "uuid", uuid, sizeof uuid))
        snprintf(uuid, sizeof uuid, "GPU-00000000-0000-0000-0000-0000000000%02x", card + 1);
    return uuid_bytes(uuid, bytes);
}

unsigned cuDeviceGetUuid(unsigned char *bytes, int device) {
    ENTER();
    DEVICE(card, device);
    return card_uuid(card, bytes);
}

unsigned cuDeviceGetUuid_v2(unsigned char *bytes, int device) {
    ENTER();
    DEVICE(card, device);
    char uuid[96];
    if (!sliced(card)) return card_uuid(card, bytes);
    if (!script_card_text(card, "mig.0.uuid", uuid, sizeof uuid))
        snprintf(uuid, sizeof uuid, "MIG-00000000-0000-0000-0001-0000000000%02x", card + 1);
    return uuid_bytes(uuid, bytes);
}

static size_t card_memory(unsigned card) {
    return (size_t)script_card_number(card, sliced(card) ? "mig.0.memory" : "memory", 80.0 * (1 << 30));
}

static size_t card_free(unsigned card) {
    size_t total = card_memory(card);
    size_t taken = (size_t)script_card_number(card, sliced(card) ? "mig.0.used" : "used", 0) + used_bytes[card];
    return taken > total ? 0 : total - taken;
}

unsigned cuDeviceTotalMem_v2(size_t *bytes, int device) {
    ENTER();
    DEVICE(card, device);
    *bytes = card_memory(card);
    return SUCCESS;
}

unsigned cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER();
    DEVICE(card, device);
    int capability = (int)script_card_number(card, "capability", 90);
    switch (attribute) {
        case 13: *value = (int)script_card_number(card, "clock_khz", 1980000); break;
        case 16: *value = (int)script_card_number(card, "sms", 132); break;
        case 18: *value = (int)script_card_number(card, "integrated", 0); break;
        case 75: *value = capability / 10; break;
        case 76: *value = capability % 10; break;
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

unsigned cuDeviceGetPCIBusId(char *buffer, int room, int device) {
    ENTER();
    if (device < 0 || (unsigned)device >= shown_count) return INVALID_DEVICE;
    unsigned card = shown[device];
    char text[32];
    if (!script_card_text(card, "pci", text, sizeof text)) snprintf(text, sizeof text, "0000:%02x:00.0", card + 1);
    give_text(card, text, buffer, room);
    return SUCCESS;
}

unsigned cuDeviceCanAccessPeer(int *can, int device, int other) {
    ENTER();
    DEVICE(card, device);
    DEVICE(peer, other);
    char key[64];
    snprintf(key, sizeof key, "peer.%u.%u", card, peer);
    *can = script_number(key, 0) != 0;
    return SUCCESS;
}

unsigned cuDevicePrimaryCtxRetain(char **context, int device) {
    ENTER();
    DEVICE(card, device);
    if (script_card_number(card, "lost", 0) != 0) return 999;
    unsigned code = (unsigned)script_card_number(card, "cuda", 0);
    if (code != SUCCESS) return code;
    retained[card]++;
    *context = &contexts[card];
    return SUCCESS;
}

static void drop_block(size_t place) {
    used_bytes[blocks[place].card] -= blocks[place].bytes;
    munmap((void *)(uintptr_t)blocks[place].at, blocks[place].mapped);
    blocks[place] = blocks[--block_count];
}

unsigned cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER();
    DEVICE(card, device);
    if (retained[card] == 0) return INVALID_CONTEXT;
    if (--retained[card] > 0) return SUCCESS;
    size_t left = 0;
    for (size_t place = 0; place < block_count; place++) left += blocks[place].card == card;
    /* Told, so that a test can see what the caller left to the driver. */
    fprintf(stderr, "cuDevicePrimaryCtxRelease %u with %zu blocks\n", card, left);
    for (size_t place = block_count; place-- > 0;) if (blocks[place].card == card) drop_block(place);
    memset(enabled[card], 0, sizeof enabled[card]);
    return SUCCESS;
}

unsigned cuCtxSetCurrent(char *context) {
    ENTER();
    current = context;
    return SUCCESS;
}

unsigned cuCtxSynchronize(void) {
    ENTER();
    CARD(card);
    (void)card;
    return SUCCESS;
}

unsigned cuCtxEnablePeerAccess(char *context, unsigned flags) {
    ENTER();
    CARD(card);
    unsigned peer = (unsigned)(context - contexts);
    if (peer >= CARDS_MAX || flags != 0) return INVALID_VALUE;
    if (enabled[card][peer]) return PEER_ACCESS_ALREADY_ENABLED;
    enabled[card][peer] = 1;
    return SUCCESS;
}

unsigned cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER();
    CARD(card);
    *total = card_memory(card);
    *free_bytes = card_free(card);
    return SUCCESS;
}

unsigned cuMemAlloc_v2(address_t *address, size_t bytes) {
    ENTER();
    CARD(card);
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > card_free(card) || block_count == BLOCKS_MAX) return OUT_OF_MEMORY;
    /* Pages are taken when they are written: a card may have more memory than the machine. */
    size_t mapped = (bytes + 4095) / 4096 * 4096;
    void *at = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return OUT_OF_MEMORY;
    blocks[block_count++] = (struct block){(address_t)(uintptr_t)at, bytes, mapped, card};
    used_bytes[card] += bytes;
    *address = (address_t)(uintptr_t)at;
    return SUCCESS;
}

/* Whether the span lies in one block of the card. */
static int owned(unsigned card, address_t at, size_t bytes) {
    for (size_t place = 0; place < block_count; place++) {
        struct block *block = &blocks[place];
        if (block->card == card && at >= block->at && at - block->at <= block->bytes &&
            bytes <= block->bytes - (at - block->at)) return 1;
    }
    return 0;
}

unsigned cuMemFree_v2(address_t address) {
    ENTER();
    CARD(card);
    for (size_t place = 0; place < block_count; place++) {
        if (blocks[place].at != address || blocks[place].card != card) continue;
        drop_block(place);
        return SUCCESS;
    }
    return INVALID_VALUE;
}

unsigned cuMemcpyHtoD_v2(address_t to, const void *from, size_t bytes) {
    ENTER();
    CARD(card);
    if (!owned(card, to, bytes)) return 700;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return SUCCESS;
}

unsigned cuMemcpyDtoH_v2(void *to, address_t from, size_t bytes) {
    ENTER();
    CARD(card);
    char wrong[32];
    if (!owned(card, from, bytes)) return 700;
    memcpy(to, (void *)(uintptr_t)from, bytes);
    if (bytes > 0 && script_card_text(card, "wrong", wrong, sizeof wrong) && strcmp(wrong, "memory") == 0)
        ((unsigned char *)to)[bytes / 2] ^= 0x10;
    return SUCCESS;
}

unsigned cuMemcpyDtoD_v2(address_t to, address_t from, size_t bytes) {
    ENTER();
    CARD(card);
    if (!owned(card, to, bytes) || !owned(card, from, bytes)) return 700;
    /* The real one's result is undefined: here it is wrong for sure. */
    size_t apart = to > from ? to - from : from - to;
    if (apart < bytes) memset((void *)(uintptr_t)to, 0xee, bytes);
    else memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    return SUCCESS;
}

unsigned cuMemcpyPeer(address_t to, char *to_context, address_t from, char *from_context, size_t bytes) {
    ENTER();
    unsigned target = (unsigned)(to_context - contexts), source = (unsigned)(from_context - contexts);
    if (target >= CARDS_MAX || source >= CARDS_MAX) return INVALID_CONTEXT;
    if (!owned(target, to, bytes) || !owned(source, from, bytes)) return 700;
    memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    if (bytes > 0 && script_number("peer_wrong", 0) != 0) ((unsigned char *)(uintptr_t)to)[0] ^= 1;
    /* Told, so that a test can see that bytes went this way. */
    fprintf(stderr, "cuMemcpyPeer %u %u %zu\n", source, target, bytes);
    return SUCCESS;
}

unsigned cuModuleLoadData(const void **module, const char *image) {
    ENTER();
    CARD(card);
    (void)card;
    if (strstr(image, ".version") == NULL || strstr(image, ".visible .entry") == NULL) return INVALID_IMAGE;
    *module = image;
    return SUCCESS;
}

unsigned cuModuleUnload(const void *module) {
    ENTER();
    CARD(card);
    (void)card;
    return module == NULL ? INVALID_VALUE : SUCCESS;
}

static const char *kernels[] = {"empty", "product_f32", "product_f16", "product_f16_tensor"};

unsigned cuModuleGetFunction(const char ***kernel, const char *module, const char *name) {
    ENTER();
    char entry[128];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (strstr(module, entry) == NULL) return NOT_FOUND;
    for (size_t place = 0; place < sizeof kernels / sizeof *kernels; place++) {
        if (strcmp(kernels[place], name) != 0) continue;
        *kernel = &kernels[place];
        return SUCCESS;
    }
    return NOT_FOUND;
}

static float half_to_float(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 0x3ff;
    float size = exponent == 0 ? ldexpf((float)fraction, -24) : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                                              : ldexpf((float)(1024 + fraction), exponent - 25);
    return half & 0x8000 ? -size : size;
}

static float element(const char *kernel, address_t matrix, size_t at) {
    if (strcmp(kernel, "product_f32") == 0) return ((const float *)(uintptr_t)matrix)[at];
    return half_to_float(((const uint16_t *)(uintptr_t)matrix)[at]);
}

unsigned cuLaunchKernel(const char **kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **parameters,
                        void **extra) {
    ENTER();
    CARD(card);
    (void)shared; (void)stream; (void)extra;
    if (grid_z != 1 || block_z != 1) return INVALID_VALUE;
    if (strcmp(*kernel, "empty") == 0) return SUCCESS;
    address_t a = *(address_t *)parameters[0], b = *(address_t *)parameters[1], c = *(address_t *)parameters[2];
    size_t n = *(unsigned *)parameters[3], input = strcmp(*kernel, "product_f32") == 0 ? 4 : 2;
    unsigned threads = strcmp(*kernel, "product_f16_tensor") == 0 ? 128 : 256;
    /* A grid that is too small would leave numbers unmade on a real card. */
    if (block_x * block_y != threads || grid_x * 64 < n || grid_y * 64 < n) return INVALID_VALUE;
    if (!owned(card, a, n * n * input) || !owned(card, b, n * n * input) || !owned(card, c, n * n * 4)) return 700;
    float *out = (float *)(uintptr_t)c;
    memset(out, 0, n * n * 4);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++) {
            float left = element(*kernel, a, i * n + k);
            for (size_t j = 0; j < n; j++) out[i * n + j] += left * element(*kernel, b, k * n + j);
        }
    char wrong[32];
    if (script_card_text(card, "wrong", wrong, sizeof wrong) && strcmp(wrong, "product") == 0) out[n * n / 2] += 1.0f;
    return SUCCESS;
}
