import { defineConfig } from 'vitest/config';
import { ofDocker, resolve } from './vitest.base.ts';

// Kill, load and corpus tests, and those of the Docker engine: real processes, fixed seeds and sizes. One file at a time: they measure and they kill.
export default defineConfig({
  resolve,
  test: {
    include: ['test/proof/**/*.test.ts', ...ofDocker],
    globalSetup: ['test/support/global-setup.ts'],
    reporters: ['default', './test/support/skip-reporter.ts'],
    fileParallelism: false,
    testTimeout: 600_000,
    hookTimeout: 120_000,
  },
});
