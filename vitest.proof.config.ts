import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { defineConfig } from 'vitest/config';
import { ofDocker, resolve } from './vitest.base.ts';

/**
 * The longest first, so that none is left alone at the end. Of those with a Docker engine that has a network there can
 * be one at a time: they are far apart, or the second would wait for the first.
 */
const order = [
  'proof/containers',
  'proof/documents',
  'proof/runs',
  'proof/live',
  'proof/image',
  'drivers/ec2',
  'proof/processes',
  'proof/tables',
  'proof/previews',
  'proof/outages',
  'drivers/docker',
  'proof/access',
];

class ByLength extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = order.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`));
      return found < 0 ? order.length : found;
    };
    return files.toSorted((a, b) => place(a) - place(b));
  }
}

// Kill, load and corpus tests, and those of the Docker engine: real processes, fixed seeds and sizes. Two files at a time:
// much of their time is waiting, and what they bound is several times what is promised.
export default defineConfig({
  resolve,
  test: {
    include: ['test/proof/**/*.test.ts', ...ofDocker],
    globalSetup: ['test/support/global-setup.ts'],
    reporters: ['default', './test/support/skip-reporter.ts'],
    sequence: { sequencer: ByLength },
    maxWorkers: 2,
    maxConcurrency: 3,
    testTimeout: 600_000,
    hookTimeout: 120_000,
  },
});
