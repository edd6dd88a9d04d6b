/* A HIP runtime that answers from the script. Memory is the host's, reserved and not touched before it is used.
 *
 *   hip.cards=2            devices (else cards=, else 1)      <n>.name=  <n>.gfx=gfx1100  <n>.bus=0000:03:00.0
 *   <n>.unique_id=         sixteen hexadecimal digits         <n>.units=96  <n>.clock_khz=  <n>.integrated=1
 *   <n>.memory_bytes=      total                              <n>.others_bytes= used by others
 *   <n>.lost=719           every call for it returns that     <n>.wrong=copy|product   bytes or numbers that are not right
 *   peers=0                no device reaches another          fail.<function>=<code>
 *   hang=, crash=, <n>.hang=, <n>.crash=, delay_ms.<function>= as script.h says */
#include <math.h>
#include <sys/mman.h>

#define CARDS 64
typedef int status;
struct block {
    void *address;
    size_t bytes;
    int device;
    struct block *next;
};
struct module {
    int device;
};
struct function {
    int device;
    char name[64];
};

static struct block *blocks;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int current;

static int cards(void) {
    double count = script_number("hip.cards", script_number("cards", 1));
    return count < 0 ? -1 : count > 100000 ? 100000 : (int)count;
}

static status begin(const char *function, int device) {
    char key[128];
    script_enter(function);
    if (device >= 0) script_enter_card((unsigned)device, function);
    snprintf(key, sizeof key, "fail.%s", function);
    int code = (int)script_number(key, 0);
    if (code != 0) return code;
    return device < 0 ? 0 : (int)script_card_number((unsigned)device, "lost", 0);
}
#define BEGIN(device) do { status begun = begin(__func__, device); if (begun != 0) return begun; } while (0)
#define KNOWN(device) do { \
    if ((device) < 0 || (device) >= cards()) return 101; \
    script_enter_card((unsigned)(device), __func__); \
} while (0)

static size_t total_of(int device) { return (size_t)script_card_number((unsigned)device, "memory_bytes", 8589934592.0); }

static size_t used_of(int device) {
    size_t used = (size_t)script_card_number((unsigned)device, "others_bytes", 0);
    for (struct block *block = blocks; block != NULL; block = block->next)
        if (block->device == device) used += block->bytes;
    return used;
}

/* Whether all of the bytes are of one living block. */
static struct block *holder(const void *address, size_t bytes) {
    for (struct block *block = blocks; block != NULL; block = block->next) {
        const char *start = block->address;
        if ((const char *)address >= start && (const char *)address + bytes <= start + block->bytes) return block;
    }
    return NULL;
}

static int is_wrong(int device, const char *how) {
    char value[32];
    return script_card_text((unsigned)device, "wrong", value, sizeof value) && strcmp(value, how) == 0;
}

status hipInit(unsigned flags) {
    (void)flags;
    BEGIN(-1);
    return 0;
}

status hipGetDeviceCount(int *count) {
    BEGIN(-1);
    *count = cards();
    return *count == 0 ? 100 : 0;
}

status hipDeviceGetName(char *name, int length, int device) {
    KNOWN(device);
    BEGIN(-1);
    char value[256] = "AMD Radeon Graphics";
    script_card_text((unsigned)device, "name", value, sizeof value);
    /* As real drivers have been seen to do, without a zero where the name is too long. */
    strncpy(name, value, (size_t)length);
    return 0;
}

status hipDeviceTotalMem(size_t *bytes, int device) {
    KNOWN(device);
    BEGIN(-1);
    *bytes = total_of(device);
    return 0;
}

/* Of the bus, not of the card: a card that hangs has an address all the same. */
status hipDeviceGetPCIBusId(char *text, int length, int device) {
    if (device < 0 || device >= cards()) return 101;
    BEGIN(-1);
    char value[64];
    snprintf(value, sizeof value, "0000:%02x:00.0", device + 3);
    script_card_text((unsigned)device, "bus", value, sizeof value);
    snprintf(text, (size_t)length, "%s", value);
    return 0;
}

status hipDeviceGetUuid(void *uuid, int device) {
    KNOWN(device);
    BEGIN(-1);
    char value[32];
    snprintf(value, sizeof value, "%016x", device + 1);
    script_card_text((unsigned)device, "unique_id", value, sizeof value);
    memset(uuid, 0, 16);
    memcpy(uuid, value, strnlen(value, 16));
    return 0;
}

status hipDeviceGetAttribute(int *value, int attribute, int device) {
    KNOWN(device);
    BEGIN(-1);
    switch (attribute) {
    case 5: *value = (int)script_card_number((unsigned)device, "clock_khz", 2482000); return 0;
    case 16: *value = (int)script_card_number((unsigned)device, "integrated", 0); return 0;
    case 63: *value = (int)script_card_number((unsigned)device, "units", 96); return 0;
    default: return 1;
    }
}

/* The structure of ROCm 6, all of it written over. */
status hipGetDevicePropertiesR0600(void *properties, int device) {
    KNOWN(device);
    BEGIN(-1);
    memset(properties, 0x41, 1472);
    char value[256] = "gfx1100";
    script_card_text((unsigned)device, "gfx", value, sizeof value);
    memset((char *)properties + 1160, 0, 256);
    strncpy((char *)properties + 1160, value, 256);
    return 0;
}

status hipSetDevice(int device) {
    KNOWN(device);
    BEGIN(device);
    current = device;
    return 0;
}

status hipMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    BEGIN(current);
    pthread_mutex_lock(&blocks_lock);
    size_t total = total_of(current), used = used_of(current);
    pthread_mutex_unlock(&blocks_lock);
    *total_bytes = total;
    *free_bytes = used > total ? 0 : total - used;
    return 0;
}

status hipMalloc(void **address, size_t bytes) {
    BEGIN(current);
    pthread_mutex_lock(&blocks_lock);
    size_t total = total_of(current), used = used_of(current);
    status outcome = 2;
    if (used <= total && bytes <= total - used) {
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        struct block *block = malloc(sizeof *block);
        if (memory != MAP_FAILED && block != NULL) {
            *block = (struct block){memory, bytes, current, blocks};
            blocks = block;
            *address = memory;
            outcome = 0;
        }
    }
    pthread_mutex_unlock(&blocks_lock);
    return outcome;
}

status hipFree(void *address) {
    BEGIN(current);
    pthread_mutex_lock(&blocks_lock);
    for (struct block **link = &blocks; *link != NULL; link = &(*link)->next) {
        struct block *block = *link;
        if (block->address != address) continue;
        *link = block->next;
        munmap(block->address, block->bytes);
        free(block);
        pthread_mutex_unlock(&blocks_lock);
        return 0;
    }
    pthread_mutex_unlock(&blocks_lock);
    return 1;
}

status hipMemcpy(void *to, const void *from, size_t bytes, int kind) {
    BEGIN(current);
    pthread_mutex_lock(&blocks_lock);
    int within = (kind == 2 || holder(to, bytes) != NULL) && (kind == 1 || holder(from, bytes) != NULL);
    pthread_mutex_unlock(&blocks_lock);
    if (!within || kind < 1 || kind > 3) return 1;
    /* Overlapping spans are undefined; here they come out wrong for certain. */
    if (kind == 3 && (char *)to < (const char *)from + bytes && (const char *)from < (char *)to + bytes) {
        memset(to, 0xEE, bytes);
        return 0;
    }
    memcpy(to, from, bytes);
    if (kind == 2 && bytes > 100 && is_wrong(current, "copy")) ((unsigned char *)to)[100] ^= 0x10;
    return 0;
}

status hipMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t bytes) {
    BEGIN(from_device);
    BEGIN(to_device);
    if (script_number("peers", 1) == 0) return 217;
    pthread_mutex_lock(&blocks_lock);
    struct block *source = holder(from, bytes), *target = holder(to, bytes);
    int right = source != NULL && target != NULL && source->device == from_device && target->device == to_device;
    pthread_mutex_unlock(&blocks_lock);
    if (!right) return 1;
    memcpy(to, from, bytes);
    return 0;
}

status hipDeviceCanAccessPeer(int *can, int device, int peer) {
    KNOWN(device);
    KNOWN(peer);
    BEGIN(device);
    *can = script_number("peers", 1) != 0;
    return 0;
}

status hipDeviceEnablePeerAccess(int peer, unsigned flags) {
    static char enabled[CARDS][CARDS];
    (void)flags;
    KNOWN(peer);
    BEGIN(current);
    if (script_number("peers", 1) == 0) return 217;
    if (current >= CARDS || peer >= CARDS) return 0;
    if (enabled[current][peer]) return 704;
    enabled[current][peer] = 1;
    return 0;
}

status hipDeviceSynchronize(void) {
    BEGIN(current);
    return 0;
}

/* Code is the fake compiler's: "FAKE:" and the architecture that it was made for. */
status hipModuleLoadData(void **module, const void *image) {
    BEGIN(current);
    char gfx[256] = "gfx1100";
    script_card_text((unsigned)current, "gfx", gfx, sizeof gfx);
    gfx[strcspn(gfx, ":")] = 0;
    if (strncmp(image, "FAKE:", 5) != 0 || strcmp((const char *)image + 5, gfx) != 0) return 209;
    struct module *made = malloc(sizeof *made);
    if (made == NULL) return 2;
    made->device = current;
    *module = made;
    return 0;
}

status hipModuleUnload(void *module) {
    BEGIN(current);
    free(module);
    return 0;
}

status hipModuleGetFunction(void **function, void *module, const char *name) {
    static const char *const kernels[] = {"nothing", "narrow", "product_f32", "product_f16"};
    static struct function made[CARDS][4];
    BEGIN(current);
    int device = ((struct module *)module)->device;
    for (int kernel = 0; kernel < 4; ++kernel) {
        if (strcmp(kernels[kernel], name) != 0) continue;
        struct function *found = &made[device % CARDS][kernel];
        found->device = device;
        snprintf(found->name, sizeof found->name, "%s", name);
        *function = found;
        return 0;
    }
    return 500;
}

/* IEEE half precision, to nearest and ties to even, by hand: not every compiler has the type. */
static uint16_t to_half(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float size = fabsf(number);
    if (size == 0) return sign;
    if (size != size) return sign | 0x7E00;
    if (size >= 65520.0f) return sign | 0x7C00;
    int exponent = 0;
    frexpf(size, &exponent);
    if (exponent < -13) exponent = -13;
    uint32_t whole = (uint32_t)lrintf(ldexpf(size, 11 - exponent));
    return sign | (uint16_t)(((uint32_t)(exponent + 13) << 10) + whole);
}

static float from_half(uint16_t half) {
    int exponent = half >> 10 & 31;
    float size = exponent == 31 ? ((half & 0x3FF) != 0 ? NAN : INFINITY)
               : exponent == 0  ? ldexpf((float)(half & 0x3FF), -24)
                                : ldexpf((float)(half & 0x3FF) + 1024.0f, exponent - 25);
    return (half & 0x8000) != 0 ? -size : size;
}

static void product(const void *a, const void *b, float *c, int size, int half, float error) {
    float *right = malloc((size_t)size * (size_t)size * 4);
    float *row = malloc((size_t)size * 4);
    if (right == NULL || row == NULL) abort();
    for (int place = 0; place < size * size; ++place)
        right[place] = half ? from_half(((const uint16_t *)b)[place]) : ((const float *)b)[place];
    for (int y = 0; y < size; ++y) {
        memset(row, 0, (size_t)size * 4);
        for (int deep = 0; deep < size; ++deep) {
            size_t place = (size_t)y * (size_t)size + (size_t)deep;
            float left = half ? from_half(((const uint16_t *)a)[place]) : ((const float *)a)[place];
            for (int x = 0; x < size; ++x) row[x] += left * right[(size_t)deep * (size_t)size + (size_t)x];
        }
        memcpy(c + (size_t)y * (size_t)size, row, (size_t)size * 4);
    }
    c[size] += error;
    free(right);
    free(row);
}

status hipModuleLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                             unsigned shared, void *stream, void **arguments, void **extra) {
    BEGIN(current);
    struct function *kernel = function;
    if (kernel == NULL || kernel->device != current || gx * gy * gz == 0 || bx != 16 || by != 16 || bz != 1) return 9;
    (void)shared, (void)stream, (void)extra;
    if (strcmp(kernel->name, "nothing") == 0) return 0;
    if (strcmp(kernel->name, "narrow") == 0) {
        const float *from = *(const float **)arguments[0];
        uint16_t *to = *(uint16_t **)arguments[1];
        int count = *(int *)arguments[2];
        if ((size_t)gx * gy * 256 < (size_t)count) return 9;
        for (int place = 0; place < count; ++place) to[place] = to_half(from[place]);
        return 0;
    }
    int size = *(int *)arguments[3], half = strcmp(kernel->name, "product_f16") == 0;
    /* Fewer blocks than tiles would leave part of the product undone. */
    if (gx * 64 < (unsigned)size || gy * 64 < (unsigned)size) return 9;
    float error = is_wrong(current, "product") ? 1000.0f : 0.0f;
    product(*(void **)arguments[0], *(void **)arguments[1], *(float **)arguments[2], size, half, error);
    return 0;
}

const char *hipGetErrorString(int code) {
    static char words[64];
    switch (code) {
    case 2: return "out of memory";
    case 100: return "no ROCm-capable device is detected";
    case 719: return "unspecified launch failure";
    default: return script_text_of("words", words, sizeof words) ? words : "unknown error";
    }
}
