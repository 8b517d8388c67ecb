import { definePolicy, inWorkspace, withParent } from '#kernel/auth/policy.ts';

export const can = definePolicy('deployments', {
  verbs: {
    createApplication: 'MEMBER',
    stopApplication: 'MEMBER',
    createDeployment: 'MEMBER',
    rollbackDeployment: 'MEMBER',
    setAlertRule: 'MEMBER',
    deleteAlertRule: 'MEMBER',
  },
  rows: {
    Application: inWorkspace('VIEWER'),
    // Reached through its application, and through its deployment.
    Release: withParent,
    // A deployment is a run: the rule of Run holds for it.
    Deployment: withParent,
    AlertRule: inWorkspace('VIEWER'),
  },
}).verbs;
