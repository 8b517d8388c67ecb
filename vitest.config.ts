import { defineConfig } from 'vitest/config';
import { ofDocker, resolve } from './vitest.base.ts';

// The ordinary tests: five minutes at most, npm and git only. The kill, load and corpus tests are in test/proof.
export default defineConfig({
  resolve,
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/proof/**', ...ofDocker],
    globalSetup: ['test/support/global-setup.ts'],
    reporters: ['default', './test/support/skip-reporter.ts'],
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    coverage: { provider: 'v8', include: ['src/**'], exclude: ['src/generated/**'] },
  },
});
