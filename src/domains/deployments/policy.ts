import { definePolicy, inWorkspace, withParent } from '#kernel/auth/policy.ts';

export const can = definePolicy('deployments', {
  verbs: {
    createApplication: 'MEMBER',
    stopApplication: 'MEMBER',
    createDeployment: 'MEMBER',
    rollbackDeployment: 'MEMBER',
    // Whoever may deploy does not decide what may be deployed.
    setScanPolicy: 'ADMIN',
    suppressFinding: 'ADMIN',
    unsuppressFinding: 'ADMIN',
  },
  rows: {
    Application: inWorkspace('VIEWER'),
    // Reached through its application, and through its deployment.
    Release: withParent,
    // A deployment is a run: the rule of Run holds for it.
    Deployment: withParent,
    // Reached through the deployment, and findings through their scan or their application.
    SecurityScan: withParent,
    Finding: withParent,
    KnownFinding: withParent,
  },
}).verbs;
