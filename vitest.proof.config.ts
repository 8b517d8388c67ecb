import { defineConfig } from 'vitest/config';
import { resolve } from './vitest.base.ts';

// Kill, load and corpus tests: real processes, fixed seeds and sizes. One file at a time: they measure and they kill.
export default defineConfig({
  resolve,
  test: {
    include: ['test/proof/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    reporters: ['default', './test/support/skip-reporter.ts'],
    fileParallelism: false,
    testTimeout: 600_000,
    hookTimeout: 120_000,
  },
});
