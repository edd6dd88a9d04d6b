// What a card is verified and measured with. Inputs are of single precision; `narrow` rounds them to half precision on
// the card. Sums are always of single precision. Sizes are multiples of 16; blocks are 16 by 16 threads.

#define TILE 64
#define DEPTH 16
#define EACH 4

extern "C" __global__ void nothing() {}

extern "C" __global__ void narrow(const float* from, _Float16* to, int count) {
    int place = (int)((blockIdx.y * gridDim.x + blockIdx.x) * 256 + threadIdx.y * 16 + threadIdx.x);
    if (place < count) to[place] = (_Float16)from[place];
}

// Each block makes a tile of C of 64 by 64, each thread 4 by 4 of it, from strips of A and B that lie in local memory.
template <typename Number>
static __device__ void product(const Number* a, const Number* b, float* c, int size) {
    __shared__ float left[DEPTH][TILE];
    __shared__ float right[DEPTH][TILE];
    int thread = (int)(threadIdx.y * 16 + threadIdx.x);
    int top = (int)blockIdx.y * TILE;
    int side = (int)blockIdx.x * TILE;
    float sums[EACH][EACH] = {};
    for (int strip = 0; strip < size; strip += DEPTH) {
        for (int load = thread; load < TILE * DEPTH; load += 256) {
            int row = load / DEPTH, deep = load % DEPTH;
            left[deep][row] = top + row < size ? (float)a[(long)(top + row) * size + strip + deep] : 0.0f;
            int down = load / TILE, column = load % TILE;
            right[down][column] = side + column < size ? (float)b[(long)(strip + down) * size + side + column] : 0.0f;
        }
        __syncthreads();
        for (int deep = 0; deep < DEPTH; ++deep)
            for (int row = 0; row < EACH; ++row)
                for (int column = 0; column < EACH; ++column)
                    sums[row][column] += left[deep][threadIdx.y * EACH + row] * right[deep][threadIdx.x * EACH + column];
        __syncthreads();
    }
    for (int row = 0; row < EACH; ++row)
        for (int column = 0; column < EACH; ++column) {
            int y = top + (int)threadIdx.y * EACH + row, x = side + (int)threadIdx.x * EACH + column;
            if (y < size && x < size) c[(long)y * size + x] = sums[row][column];
        }
}

extern "C" __global__ void product_f32(const float* a, const float* b, float* c, int size) { product(a, b, c, size); }

extern "C" __global__ void product_f16(const _Float16* a, const _Float16* b, float* c, int size) {
    product(a, b, c, size);
}
