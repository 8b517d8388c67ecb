import { defineConfig } from 'vitest/config';
import { alone, declaring, ofDocker, resolve } from './vitest.base.ts';

const others = ['test/proof/**', ...ofDocker];
const timeouts = { testTimeout: 60_000, hookTimeout: 60_000 };

// The ordinary tests: five minutes at most, npm and git only. The kill, load and corpus tests are in test/proof.
export default defineConfig({
  test: {
    globalSetup: ['test/support/global-setup.ts'],
    reporters: ['default', './test/support/skip-reporter.ts'],
    // One more than the least machine has cores: a good part of the time is waiting for what is started.
    maxWorkers: 3,
    coverage: { provider: 'v8', include: ['src/**'], exclude: ['src/generated/**'] },
    projects: [
      { resolve, test: { name: 'alone', include: alone, exclude: others, ...timeouts } },
      { resolve, test: { name: 'declaring', include: declaring, isolate: false, ...timeouts } },
      {
        resolve,
        test: {
          name: 'shared',
          include: ['test/**/*.test.ts'],
          exclude: [...alone, ...declaring, ...others],
          isolate: false,
          ...timeouts,
        },
      },
    ],
  },
});
