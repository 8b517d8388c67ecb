import { definePolicy, inWorkspace, withParent } from '#kernel/auth/policy.ts';

export const can = definePolicy('deployments', {
  verbs: {
    createApplication: 'MEMBER',
    updateApplication: 'MEMBER',
    deleteApplication: 'ADMIN',
    stopApplication: 'MEMBER',
    setEnvironmentVariables: 'MEMBER',
    unsetEnvironmentVariables: 'MEMBER',
    setAutoDeploy: 'MEMBER',
    createDeployment: 'MEMBER',
    rollbackDeployment: 'MEMBER',
    // Whoever may deploy does not decide what may be deployed.
    setScanPolicy: 'ADMIN',
    suppressFinding: 'ADMIN',
    unsuppressFinding: 'ADMIN',
    // It lets the code of strangers run.
    setPreviewPolicy: 'ADMIN',
    // Whoever may deploy any commit may deploy this one; a preview has nothing of the application's own environment.
    approvePreview: 'MEMBER',
    rejectPreview: 'MEMBER',
    setAlertRule: 'MEMBER',
    deleteAlertRule: 'MEMBER',
    // Data leaves the server.
    setModelAdvice: 'ADMIN',
  },
  rows: {
    Application: inWorkspace('VIEWER'),
    // Reached through its application, and through its deployment.
    Release: withParent,
    // A deployment is a run: the rule of Run holds for it.
    Deployment: withParent,
    Activation: withParent,
    EnvironmentVersion: withParent,
    EnvironmentVariable: withParent,
    WorkspaceQuota: withParent,
    ApplicationDisk: withParent,
    // Reached through the deployment, and findings through their scan or their application.
    SecurityScan: withParent,
    Finding: withParent,
    KnownFinding: withParent,
    AlertRule: inWorkspace('VIEWER'),
    // Reached through the deployment, and what a workspace says through that.
    Advice: withParent,
    Recommendation: withParent,
    AdviceSetting: withParent,
    Preview: inWorkspace('VIEWER'),
    PreviewPolicy: withParent,
    PreviewVariable: withParent,
  },
}).verbs;

/** What operators of the server say of workspaces. */
export const canOperate = definePolicy('quotas', {
  verbs: { setWorkspaceQuota: 'OWNER' },
  inInstance: ['setWorkspaceQuota'],
  rows: {},
}).verbs;
