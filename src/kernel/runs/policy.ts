import { definePolicy, inWorkspace, withParent } from '../auth/policy.ts';

/** Runs of every kind. */
export const runPolicy = definePolicy('runs', {
  verbs: {
    cancelRun: 'MEMBER',
    retryRun: 'MEMBER',
    replayDeadLetter: 'ADMIN',
    createUpload: 'MEMBER',
    uploadParts: 'MEMBER',
    completeUpload: 'MEMBER',
    abortUpload: 'MEMBER',
  },
  inInstance: ['cancelRun', 'retryRun', 'replayDeadLetter'],
  rows: {
    Run: inWorkspace('VIEWER'),
    RunStep: withParent,
    // The machines of this server belong to no workspace: seen through what lives on them.
    Host: withParent,
    Artifact: inWorkspace('VIEWER'),
    ArtifactPart: withParent,
    DeadLetter: inWorkspace('ADMIN'),
  },
});
