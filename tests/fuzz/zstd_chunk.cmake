forebay_fuzz(zstd_chunk SOURCES zstd_chunk.cc SEEDS zstd_chunk_seeds.cc LIBS forebay_codec)
