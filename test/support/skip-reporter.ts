import type { Reporter, TestModule } from 'vitest/node';

/** Names every skipped test at the end, with its reason: a missing counterpart must not look like a pass. */
export default class SkipReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const skipped = modules.flatMap((module) => [...module.children.allTests('skipped')]);
    if (skipped.length === 0) return;
    console.log(`\nSKIPPED ${skipped.length}:`);
    for (const test of skipped) {
      const result = test.result();
      console.log(
        `  ${test.module.relativeModuleId} > ${test.fullName}${'note' in result && result.note ? `: ${result.note}` : ''}`,
      );
    }
  }
}
