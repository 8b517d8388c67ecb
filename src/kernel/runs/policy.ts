import { definePolicy, inWorkspace, withParent } from '../auth/policy.ts';

/** Runs of every kind. */
export const runPolicy = definePolicy('runs', {
  verbs: { cancelRun: 'MEMBER', retryRun: 'MEMBER', replayDeadLetter: 'ADMIN', createUpload: 'MEMBER' },
  rows: {
    Run: inWorkspace('VIEWER'),
    RunStep: withParent,
    Artifact: inWorkspace('VIEWER'),
    DeadLetter: inWorkspace('ADMIN'),
  },
});
