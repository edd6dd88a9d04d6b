//! The kernels' text, compiled for the processor: a thread of the machine for each of the card's.

use std::process::Command;

const HARNESS: &str = r#"
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <vector>

struct Place { unsigned x, y; };
static thread_local Place threadIdx;
static Place blockIdx, gridDim;
static pthread_barrier_t barrier;
static void __syncthreads() { pthread_barrier_wait(&barrier); }

// Half precision of whole numbers below 2048, which is all that the inputs are.
struct Half {
    int16_t whole;
    Half() = default;
    explicit Half(float number) : whole((int16_t)std::lrint(number)) {}
    operator float() const { return whole; }
};
#define _Float16 Half
#define __global__
#define __device__
#define __shared__ static
#include "kernels.hip"

struct Work { void (*kernel)(void**); void** arguments; unsigned thread; };
static void* one(void* given) {
    Work* work = (Work*)given;
    threadIdx = {work->thread % 16, work->thread / 16};
    work->kernel(work->arguments);
    return nullptr;
}
static void launch(unsigned width, unsigned height, void (*kernel)(void**), void** arguments) {
    gridDim = {width, height};
    for (unsigned block = 0; block < width * height; ++block) {
        blockIdx = {block % width, block / width};
        std::vector<pthread_t> threads(256);
        std::vector<Work> works(256);
        for (unsigned thread = 0; thread < 256; ++thread) {
            works[thread] = {kernel, arguments, thread};
            if (pthread_create(&threads[thread], nullptr, one, &works[thread]) != 0) std::abort();
        }
        for (pthread_t thread : threads) pthread_join(thread, nullptr);
    }
}
static void narrows(void** a) { narrow((const float*)a[0], (Half*)a[1], *(int*)a[2]); }
static void single(void** a) { product_f32((const float*)a[0], (const float*)a[1], (float*)a[2], *(int*)a[3]); }
static void half(void** a) { product_f16((const Half*)a[0], (const Half*)a[1], (float*)a[2], *(int*)a[3]); }

int main() {
    pthread_barrier_init(&barrier, nullptr, 256);
    for (int size : {16, 64, 80}) {
        int count = size * size;
        unsigned tiles = (unsigned)(size + 63) / 64;
        // What lies behind an array is never to be written.
        std::vector<float> a(count), b(count), c(count + 1, -1), d(count + 1, -1);
        std::vector<Half> narrow_a(count + 1, Half(99.0f)), narrow_b(count + 1, Half(99.0f));
        for (int i = 0; i < count; ++i) { a[i] = (float)(i * 7 % 15) - 7; b[i] = (float)(i * 11 % 15) - 7; }
        void* first[] = {a.data(), narrow_a.data(), &count};
        void* second[] = {b.data(), narrow_b.data(), &count};
        launch((unsigned)(count + 255) / 256, 1, narrows, first);
        launch((unsigned)(count + 255) / 256, 1, narrows, second);
        void* singles[] = {a.data(), b.data(), c.data(), &size};
        void* halves[] = {narrow_a.data(), narrow_b.data(), d.data(), &size};
        launch(tiles, tiles, single, singles);
        launch(tiles, tiles, half, halves);
        for (int y = 0; y < size; ++y)
            for (int x = 0; x < size; ++x) {
                float sum = 0;
                for (int deep = 0; deep < size; ++deep) sum += a[y * size + deep] * b[deep * size + x];
                if (c[y * size + x] != sum || d[y * size + x] != sum) {
                    std::printf("size %d at %d %d: %f, not %f nor %f\n", size, y, x, sum, c[y * size + x], d[y * size + x]);
                    return 1;
                }
            }
        if (c[count] != -1 || d[count] != -1 || narrow_a[count] != 99.0f) return 2;
    }
    return 0;
}
"#;

#[test]
fn the_kernels_text_computes_the_product_when_processors_run_it() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("harness.cpp"), folder.path().join("harness"));
    std::fs::write(&source, HARNESS).unwrap();
    std::fs::write(
        folder.path().join("kernels.hip"),
        include_str!("../../src/rocm/kernels.hip"),
    )
    .unwrap();
    let compiler = Command::new("c++")
        .args(["-std=c++17", "-O1", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .output();
    let Ok(compiled) = compiler else {
        println!("SKIPPED: no c++ here");
        return;
    };
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let run = Command::new(program).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
}
