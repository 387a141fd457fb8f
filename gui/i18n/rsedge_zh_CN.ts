<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="zh_CN" sourcelanguage="en">
    <context>
        <name>Actions</name>
        <message>
            <source>Open &amp;bundle…</source>
            <translation>打开模型包(&amp;B)…</translation>
        </message>
        <message>
            <source>Bundle…</source>
            <translation>模型包…</translation>
        </message>
        <message>
            <source>&amp;Open image, scene or video…</source>
            <translation>打开图像、场景或视频(&amp;O)…</translation>
        </message>
        <message>
            <source>Open…</source>
            <translation>打开…</translation>
        </message>
        <message>
            <source>Open &amp;folder…</source>
            <translation>打开文件夹(&amp;F)…</translation>
        </message>
        <message>
            <source>Folder…</source>
            <translation>文件夹…</translation>
        </message>
        <message>
            <source>Open &amp;camera or stream…</source>
            <translation>打开摄像头或视频流(&amp;C)…</translation>
        </message>
        <message>
            <source>Camera…</source>
            <translation>摄像头…</translation>
        </message>
        <message>
            <source>Open &amp;drawn scene</source>
            <translation>打开绘制场景(&amp;D)</translation>
        </message>
        <message>
            <source>&amp;Export…</source>
            <translation>导出(&amp;E)…</translation>
        </message>
        <message>
            <source>Export…</source>
            <translation>导出…</translation>
        </message>
        <message>
            <source>&amp;Quit</source>
            <translation>退出(&amp;Q)</translation>
        </message>
        <message>
            <source>&amp;Undo filter</source>
            <translation>撤销筛选(&amp;U)</translation>
        </message>
        <message>
            <source>&amp;Redo filter</source>
            <translation>重做筛选(&amp;R)</translation>
        </message>
        <message>
            <source>Re&amp;set filters</source>
            <translation>重置筛选(&amp;S)</translation>
        </message>
        <message>
            <source>&amp;Next box</source>
            <translation>下一个框(&amp;N)</translation>
        </message>
        <message>
            <source>&amp;Previous box</source>
            <translation>上一个框(&amp;P)</translation>
        </message>
        <message>
            <source>&amp;Deselect</source>
            <translation>取消选择(&amp;D)</translation>
        </message>
        <message>
            <source>&amp;Higher score</source>
            <translation>提高分数(&amp;H)</translation>
        </message>
        <message>
            <source>&amp;Lower score</source>
            <translation>降低分数(&amp;L)</translation>
        </message>
        <message>
            <source>Zoom &amp;in</source>
            <translation>放大(&amp;I)</translation>
        </message>
        <message>
            <source>+</source>
            <translation>+</translation>
        </message>
        <message>
            <source>Zoom &amp;out</source>
            <translation>缩小(&amp;O)</translation>
        </message>
        <message>
            <source>−</source>
            <translation>−</translation>
        </message>
        <message>
            <source>&amp;Fit picture</source>
            <translation>适合窗口(&amp;F)</translation>
        </message>
        <message>
            <source>Fit</source>
            <translation>适合</translation>
        </message>
        <message>
            <source>&amp;Actual pixels</source>
            <translation>实际像素(&amp;A)</translation>
        </message>
        <message>
            <source>Show &amp;boxes</source>
            <translation>显示框(&amp;B)</translation>
        </message>
        <message>
            <source>Show &amp;labels</source>
            <translation>显示标签(&amp;L)</translation>
        </message>
        <message>
            <source>Show &amp;side panel</source>
            <translation>显示侧栏(&amp;S)</translation>
        </message>
        <message>
            <source>F&amp;ull screen</source>
            <translation>全屏(&amp;U)</translation>
        </message>
        <message>
            <source>&amp;Run again</source>
            <translation>重新运行(&amp;R)</translation>
        </message>
        <message>
            <source>&amp;Cancel</source>
            <translation>取消(&amp;C)</translation>
        </message>
        <message>
            <source>&amp;Play or pause</source>
            <translation>播放或暂停(&amp;P)</translation>
        </message>
        <message>
            <source>&amp;Step one frame</source>
            <translation>前进一帧(&amp;S)</translation>
        </message>
        <message>
            <source>Five seconds &amp;back</source>
            <translation>后退五秒(&amp;B)</translation>
        </message>
        <message>
            <source>Five seconds &amp;on</source>
            <translation>前进五秒(&amp;O)</translation>
        </message>
        <message>
            <source>&amp;Full speed, every frame</source>
            <translation>全速，逐帧处理(&amp;F)</translation>
        </message>
        <message>
            <source>&amp;Loop</source>
            <translation>循环(&amp;L)</translation>
        </message>
        <message>
            <source>&amp;Next picture</source>
            <translation>下一张图像(&amp;N)</translation>
        </message>
        <message>
            <source>Pre&amp;vious picture</source>
            <translation>上一张图像(&amp;V)</translation>
        </message>
        <message>
            <source>Open &amp;annotations…</source>
            <translation>打开标注(&amp;A)…</translation>
        </message>
        <message>
            <source>Open annotations &amp;folder…</source>
            <translation>打开标注文件夹(&amp;F)…</translation>
        </message>
        <message>
            <source>&amp;Remove annotations</source>
            <translation>移除标注(&amp;R)</translation>
        </message>
        <message>
            <source>&amp;Second bundle beside…</source>
            <translation>并排打开第二个模型包(&amp;S)…</translation>
        </message>
        <message>
            <source>&amp;Close second bundle</source>
            <translation>关闭第二个模型包(&amp;C)</translation>
        </message>
        <message>
            <source>&amp;File</source>
            <translation>文件(&amp;F)</translation>
        </message>
        <message>
            <source>&amp;Edit</source>
            <translation>编辑(&amp;E)</translation>
        </message>
        <message>
            <source>&amp;View</source>
            <translation>视图(&amp;V)</translation>
        </message>
        <message>
            <source>&amp;Run</source>
            <translation>运行(&amp;R)</translation>
        </message>
        <message>
            <source>&amp;Compare</source>
            <translation>比较(&amp;C)</translation>
        </message>
        <message>
            <source>&amp;Help</source>
            <translation>帮助(&amp;H)</translation>
        </message>
        <message>
            <source>&amp;Keyboard shortcuts</source>
            <translation>键盘快捷键(&amp;K)</translation>
        </message>
        <message>
            <source>&amp;About rsedge</source>
            <translation>关于 rsedge(&amp;A)</translation>
        </message>
        <message>
            <source>E&amp;xamine this machine</source>
            <translation>检查本机(&amp;X)</translation>
        </message>
        <message>
            <source>Filte&amp;rs</source>
            <translation>筛选(&amp;R)</translation>
        </message>
        <message>
            <source>Table of bo&amp;xes</source>
            <translation>检测框表格(&amp;X)</translation>
        </message>
        <message>
            <source>&amp;Machine</source>
            <translation>本机(&amp;M)</translation>
        </message>
        <message>
            <source>Bun&amp;dle</source>
            <translation>模型包(&amp;D)</translation>
        </message>
        <message>
            <source>Pi&amp;ctures of the folder</source>
            <translation>文件夹中的图像(&amp;C)</translation>
        </message>
    </context>
    <context>
        <name>BundleCard</name>
        <message>
            <source>Folder</source>
            <translation>文件夹</translation>
        </message>
        <message>
            <source>Model input</source>
            <translation>模型输入</translation>
        </message>
        <message>
            <source>{width} × {height} pixels</source>
            <translation>{width} × {height} 像素</translation>
        </message>
        <message>
            <source>Precision</source>
            <translation>精度</translation>
        </message>
        <message>
            <source>Files</source>
            <translation>文件</translation>
        </message>
        <message>
            <source>Chip</source>
            <translation>芯片</translation>
        </message>
        <message>
            <source>Licence</source>
            <translation>许可</translation>
        </message>
        <message>
            <source>not stated</source>
            <translation>未说明</translation>
        </message>
        <message>
            <source>No bundle is open.</source>
            <translation>没有打开模型包。</translation>
        </message>
        <message>
            <source>Classes</source>
            <translation>类别</translation>
        </message>
        <message>
            <source>Proof</source>
            <translation>验证</translation>
        </message>
        <message>
            <source>Backends</source>
            <translation>后端</translation>
        </message>
        <message>
            <source>Accuracy</source>
            <translation>准确率</translation>
        </message>
        <message>
            <source>not measured</source>
            <translation>未测量</translation>
        </message>
    </context>
    <context>
        <name>ChoiceMenus</name>
        <message>
            <source>&amp;Recent bundles</source>
            <translation>最近的模型包(&amp;R)</translation>
        </message>
        <message>
            <source>Recent so&amp;urces</source>
            <translation>最近的来源(&amp;U)</translation>
        </message>
        <message>
            <source>&amp;Theme</source>
            <translation>主题(&amp;T)</translation>
        </message>
        <message>
            <source>Lan&amp;guage</source>
            <translation>语言(&amp;G)</translation>
        </message>
        <message>
            <source>As the &amp;desktop</source>
            <translation>跟随桌面(&amp;D)</translation>
        </message>
        <message>
            <source>&amp;Light</source>
            <translation>浅色(&amp;L)</translation>
        </message>
        <message>
            <source>D&amp;ark</source>
            <translation>深色(&amp;A)</translation>
        </message>
        <message>
            <source>Nothing yet</source>
            <translation>暂无</translation>
        </message>
    </context>
    <context>
        <name>Comparing</name>
        <message>
            <source>&lt;b&gt;{name}&lt;/b&gt; · {count} boxes</source>
            <translation>&lt;b&gt;{name}&lt;/b&gt; · {count} 个框</translation>
        </message>
        <message>
            <source> · precision {precision}, recall {recall}</source>
            <translation> · 精确率 {precision}，召回率 {recall}</translation>
        </message>
    </context>
    <context>
        <name>DetectionModel</name>
        <message>
            <source>Size (m)</source>
            <translation>大小 (米)</translation>
        </message>
        <message>
            <source>Size (px)</source>
            <translation>大小 (像素)</translation>
        </message>
        <message>
            <source>Longitude, latitude</source>
            <translation>经度, 纬度</translation>
        </message>
        <message>
            <source>Place (px)</source>
            <translation>位置 (像素)</translation>
        </message>
        <message>
            <source>Class</source>
            <translation>类别</translation>
        </message>
        <message>
            <source>Score</source>
            <translation>分数</translation>
        </message>
    </context>
    <context>
        <name>DetectionTable</name>
        <message>
            <source>Filter by class</source>
            <translation>按类别筛选</translation>
        </message>
        <message>
            <source>Detections</source>
            <translation>检测结果</translation>
        </message>
    </context>
    <context>
        <name>ExportDialog</name>
        <message>
            <source>Export detections</source>
            <translation>导出检测结果</translation>
        </message>
        <message>
            <source>COCO JSON</source>
            <translation>COCO JSON</translation>
        </message>
        <message>
            <source>CSV table</source>
            <translation>CSV 表格</translation>
        </message>
        <message>
            <source>GeoJSON (georeferenced scenes)</source>
            <translation>GeoJSON（带地理参考的场景）</translation>
        </message>
        <message>
            <source>GeoPackage (georeferenced scenes)</source>
            <translation>GeoPackage（带地理参考的场景）</translation>
        </message>
        <message>
            <source>Pictures with boxes</source>
            <translation>带框的图像</translation>
        </message>
        <message>
            <source>Video with boxes</source>
            <translation>带框的视频</translation>
        </message>
        <message>
            <source>&amp;Replace the earlier export in this folder</source>
            <translation>替换此文件夹中先前的导出(&amp;R)</translation>
        </message>
        <message>
            <source>What was &amp;found so far, filtered as on the screen</source>
            <translation>目前找到的结果，按屏幕上的筛选(&amp;F)</translation>
        </message>
        <message>
            <source>The &amp;whole source, run again at this score and overlap</source>
            <translation>整个来源，按当前分数和重叠重新运行(&amp;W)</translation>
        </message>
        <message>
            <source>&amp;Choose…</source>
            <translation>选择(&amp;C)…</translation>
        </message>
        <message>
            <source>&amp;Export</source>
            <translation>导出(&amp;E)</translation>
        </message>
        <message>
            <source>&amp;Folder</source>
            <translation>文件夹(&amp;F)</translation>
        </message>
        <message>
            <source>Folder for the files</source>
            <translation>文件的存放文件夹</translation>
        </message>
        <message>
            <source>Cancel</source>
            <translation>取消</translation>
        </message>
    </context>
    <context>
        <name>FilterPanel</name>
        <message>
            <source>S&amp;core</source>
            <translation>分数(&amp;C)</translation>
        </message>
        <message>
            <source>Boxes below this score are not shown</source>
            <translation>低于此分数的框不显示</translation>
        </message>
        <message>
            <source>&amp;Overlap</source>
            <translation>重叠(&amp;O)</translation>
        </message>
        <message>
            <source>Of two boxes of one class that overlap by more, only the better one stays (NMS)</source>
            <translation>同类的两个框重叠超过此值时，只保留较好的一个（NMS）</translation>
        </message>
        <message>
            <source>Classes</source>
            <translation>类别</translation>
        </message>
        <message>
            <source>All</source>
            <translation>全选</translation>
        </message>
        <message>
            <source>None</source>
            <translation>全不选</translation>
        </message>
        <message>
            <source>&lt;b&gt;{shown}&lt;/b&gt; of {found} boxes</source>
            <translation>&lt;b&gt;{shown}&lt;/b&gt; / {found} 个框</translation>
        </message>
        <message>
            <source>No annotations of this picture.</source>
            <translation>此图像没有标注。</translation>
        </message>
        <message>
            <source>&lt;b&gt;Annotations&lt;/b&gt;: {hits} hits (solid), {false} false alarms (dashed), {missed} misses (dotted)&lt;br&gt;precision &lt;b&gt;{precision}&lt;/b&gt;, recall &lt;b&gt;{recall}&lt;/b&gt;</source>
            <translation>&lt;b&gt;标注&lt;/b&gt;：{hits} 个命中（实线），{false} 个误报（虚线），{missed} 个漏检（点线）&lt;br&gt;精确率 &lt;b&gt;{precision}&lt;/b&gt;，召回率 &lt;b&gt;{recall}&lt;/b&gt;</translation>
        </message>
    </context>
    <context>
        <name>LivePanel</name>
        <message>
            <source>&lt;span style='font-size:x-large'&gt;&lt;b&gt;{rate:.1f}&lt;/b&gt;&lt;/span&gt; images/s</source>
            <translation>&lt;span style='font-size:x-large'&gt;&lt;b&gt;{rate:.1f}&lt;/b&gt;&lt;/span&gt; 图像/秒</translation>
        </message>
        <message>
            <source>Backend: {name}</source>
            <translation>后端：{name}</translation>
        </message>
        <message>
            <source>Dropped frames: {count}</source>
            <translation>丢弃的帧：{count}</translation>
        </message>
        <message>
            <source>Memory: {mib:.0f} MiB</source>
            <translation>内存：{mib:.0f} MiB</translation>
        </message>
        <message>
            <source>Temperature: {celsius:.0f} °C</source>
            <translation>温度：{celsius:.0f} °C</translation>
        </message>
        <message>
            <source>NPU cores: {load}</source>
            <translation>NPU 核心：{load}</translation>
        </message>
        <message>
            <source>Stage (ms)</source>
            <translation>阶段 (毫秒)</translation>
        </message>
        <message>
            <source>read</source>
            <translation>读取</translation>
        </message>
        <message>
            <source>preprocess</source>
            <translation>预处理</translation>
        </message>
        <message>
            <source>infer</source>
            <translation>推理</translation>
        </message>
        <message>
            <source>post-process</source>
            <translation>后处理</translation>
        </message>
        <message>
            <source>in all</source>
            <translation>总计</translation>
        </message>
        <message>
            <source>draw</source>
            <translation>绘制</translation>
        </message>
        <message>
            <source>E&amp;xamine this machine</source>
            <translation>检查本机(&amp;X)</translation>
        </message>
        <message>
            <source>What the doctor finds stands here.</source>
            <translation>检查结果显示在这里。</translation>
        </message>
    </context>
    <context>
        <name>MainWindow</name>
        <message>
            <source>Written:</source>
            <translation>已写入：</translation>
        </message>
        <message>
            <source>Drop an image, a folder, a scene, a video or a bundle here, or press Ctrl+O.</source>
            <translation>将图像、文件夹、场景、视频或模型包拖到这里，或按 Ctrl+O。</translation>
        </message>
        <message>
            <source>Picture</source>
            <translation>图像</translation>
        </message>
    </context>
    <context>
        <name>MessageBar</name>
        <message>
            <source>Close</source>
            <translation>关闭</translation>
        </message>
    </context>
    <context>
        <name>OpenDialogs</name>
        <message>
            <source>Open a bundle: the folder that holds manifest.json</source>
            <translation>打开模型包：含有 manifest.json 的文件夹</translation>
        </message>
        <message>
            <source>Images, scenes and videos ({patterns})</source>
            <translation>图像、场景和视频 ({patterns})</translation>
        </message>
        <message>
            <source>All files (*)</source>
            <translation>所有文件 (*)</translation>
        </message>
        <message>
            <source>Open an image, a scene or a video</source>
            <translation>打开图像、场景或视频</translation>
        </message>
        <message>
            <source>Open a folder of images</source>
            <translation>打开图像文件夹</translation>
        </message>
        <message>
            <source>Open a camera or a stream</source>
            <translation>打开摄像头或视频流</translation>
        </message>
        <message>
            <source>Number of a camera (0), its device, or an address (rtsp://…)</source>
            <translation>摄像头编号 (0)、设备文件或地址 (rtsp://…)</translation>
        </message>
        <message>
            <source>Open annotations (COCO, YOLO, VOC, DOTA)</source>
            <translation>打开标注（COCO、YOLO、VOC、DOTA）</translation>
        </message>
        <message>
            <source>Annotations ({patterns})</source>
            <translation>标注 ({patterns})</translation>
        </message>
    </context>
    <context>
        <name>Opening</name>
        <message>
            <source>Annotations belong to an image or a folder; open one first.</source>
            <translation>标注属于图像或文件夹；请先打开一个。</translation>
        </message>
        <message>
            <source>Left out: {text}</source>
            <translation>已略过：{text}</translation>
        </message>
    </context>
    <context>
        <name>PlayerBar</name>
        <message>
            <source>Play or pause</source>
            <translation>播放或暂停</translation>
        </message>
        <message>
            <source>One frame on</source>
            <translation>前进一帧</translation>
        </message>
        <message>
            <source>Place in the video</source>
            <translation>视频中的位置</translation>
        </message>
    </context>
    <context>
        <name>SidePanel</name>
        <message>
            <source>Filters</source>
            <translation>筛选</translation>
        </message>
        <message>
            <source>Table</source>
            <translation>表格</translation>
        </message>
        <message>
            <source>Machine</source>
            <translation>本机</translation>
        </message>
        <message>
            <source>Bundle</source>
            <translation>模型包</translation>
        </message>
        <message>
            <source>Pictures</source>
            <translation>图像</translation>
        </message>
    </context>
    <context>
        <name>StatusLine</name>
        <message>
            <source>{done} of {total}</source>
            <translation>{done} / {total}</translation>
        </message>
        <message>
            <source>, {time} left</source>
            <translation>，剩余 {time}</translation>
        </message>
        <message>
            <source>{rate:.1f} images/s</source>
            <translation>{rate:.1f} 图像/秒</translation>
        </message>
        <message>
            <source>opening…</source>
            <translation>正在打开…</translation>
        </message>
        <message>
            <source>Cancel</source>
            <translation>取消</translation>
        </message>
    </context>
    <context>
        <name>@default</name>
        <message>
            <source>{one}, {other}</source>
            <translation>{one}，{other}</translation>
        </message>
        <message>
            <source>unknown</source>
            <translation>未知</translation>
        </message>
        <message>
            <source>none here: driver, runtime library and wheel are not looked for</source>
            <translation>本机没有 NPU：不检查驱动、运行库和 wheel 包</translation>
        </message>
        <message>
            <source>boot the board maker's image or Armbian's vendor kernel (5.10 or 6.1, with rknpu), or go without the NPU: rsedge detect --backend onnx</source>
            <translation>请启动开发板厂商的镜像或 Armbian 的厂商内核（5.10 或 6.1，带 rknpu），或者不用 NPU：rsedge detect --backend onnx</translation>
        </message>
        <message>
            <source>start the container with --device /dev/dri --device /dev/dma_heap --device /dev/mpp_service --device /dev/rga --security-opt systempaths=unconfined</source>
            <translation>启动容器时请加上 --device /dev/dri --device /dev/dma_heap --device /dev/mpp_service --device /dev/rga --security-opt systempaths=unconfined</translation>
        </message>
        <message>
            <source>board without a name</source>
            <translation>无名开发板</translation>
        </message>
        <message>
            <source>{chip}: {model}</source>
            <translation>{chip}：{model}</translation>
        </message>
        <message>
            <source>no RK3588 but {chip}: {model}</source>
            <translation>不是 RK3588，而是 {chip}：{model}</translation>
        </message>
        <message>
            <source>models are compiled for the RK3588; here use --backend onnx</source>
            <translation>模型是为 RK3588 编译的；在这里请用 --backend onnx</translation>
        </message>
        <message>
            <source>a container that hides the device tree, on kernel {kernel}</source>
            <translation>容器隐藏了设备树，内核为 {kernel}</translation>
        </message>
        <message>
            <source>kernel {kernel} but no device tree</source>
            <translation>内核为 {kernel}，但没有设备树</translation>
        </message>
        <message>
            <source>mount /proc and /sys, then run rsedge doctor again</source>
            <translation>请挂载 /proc 和 /sys，然后重新运行 rsedge doctor</translation>
        </message>
        <message>
            <source>a host ({architecture}), no RK3588: fine for training, converting and the ONNX backend</source>
            <translation>主机（{architecture}），不是 RK3588：可用于训练、转换和 ONNX 后端</translation>
        </message>
        <message>
            <source>Linux {kernel} on {architecture}</source>
            <translation>Linux {kernel}，{architecture} 架构</translation>
        </message>
        <message>
            <source>{told}, in a container</source>
            <translation>{told}，在容器中</translation>
        </message>
        <message>
            <source>rknpu, the vendor's</source>
            <translation>rknpu，厂商驱动</translation>
        </message>
        <message>
            <source>rocket, mainline's: the vendor's runtime does not speak to it</source>
            <translation>rocket，主线内核的驱动：厂商运行库无法使用它</translation>
        </message>
        <message>
            <source>none: the device tree has the NPU switched off</source>
            <translation>没有驱动：设备树中关闭了 NPU</translation>
        </message>
        <message>
            <source>enable the NPU in the board's configuration (armbian-config, rsetup, orangepi-config) and reboot</source>
            <translation>请在开发板配置工具（armbian-config、rsetup、orangepi-config）中启用 NPU，然后重启</translation>
        </message>
        <message>
            <source>not to be seen from this container</source>
            <translation>在此容器中不可见</translation>
        </message>
        <message>
            <source>none in kernel {kernel}</source>
            <translation>内核 {kernel} 中没有驱动</translation>
        </message>
        <message>
            <source>run as root, debugfs is closed to others: sudo cat /sys/kernel/debug/rknpu/version</source>
            <translation>请以 root 运行，其他用户不能读 debugfs：sudo cat /sys/kernel/debug/rknpu/version</translation>
        </message>
        <message>
            <source>cannot be read by this user</source>
            <translation>当前用户无法读取</translation>
        </message>
        <message>
            <source>{version}, the runtime asks for {oldest} or newer</source>
            <translation>{version}，运行库要求 {oldest} 或更新版本</translation>
        </message>
        <message>
            <source>update the kernel that holds it: a newer image of the board's maker, or Armbian's vendor kernel (0.9.x)</source>
            <translation>请更新包含该驱动的内核：开发板厂商的新镜像，或 Armbian 的厂商内核（0.9.x）</translation>
        </message>
        <message>
            <source>none in this container's /dev</source>
            <translation>此容器的 /dev 中没有设备节点</translation>
        </message>
        <message>
            <source>none in /dev, though the kernel has DRM devices</source>
            <translation>/dev 中没有设备节点，但内核有 DRM 设备</translation>
        </message>
        <message>
            <source>none in /dev, though the kernel has the driver</source>
            <translation>/dev 中没有设备节点，但内核有该驱动</translation>
        </message>
        <message>
            <source>see why it did not start: sudo dmesg | grep -i rknpu</source>
            <translation>查看它为何没有启动：sudo dmesg | grep -i rknpu</translation>
        </message>
        <message>
            <source>{nodes}, this user may use it</source>
            <translation>{nodes}，当前用户可以使用</translation>
        </message>
        <message>
            <source>{node} is closed to this user</source>
            <translation>当前用户无权使用 {node}</translation>
        </message>
        <message>
            <source>sudo usermod -aG {group} $USER, then log in again</source>
            <translation>运行 sudo usermod -aG {group} $USER，然后重新登录</translation>
        </message>
        <message>
            <source>add {rule} to /etc/udev/rules.d/60-rsedge.rules, then sudo usermod -aG render $USER and reboot</source>
            <translation>将 {rule} 写入 /etc/udev/rules.d/60-rsedge.rules，再运行 sudo usermod -aG render $USER 并重启</translation>
        </message>
        <message>
            <source>core {core} {load} %</source>
            <translation>核心 {core}：{load} %</translation>
        </message>
        <message>
            <source>another process uses the NPU; stop it before measuring</source>
            <translation>另有进程在使用 NPU；测量前请停止它</translation>
        </message>
        <message>
            <source>rknpu2/runtime/Linux/librknn_api/aarch64/{library} of the vendor's repository airockchip/rknn-toolkit2</source>
            <translation>厂商仓库 airockchip/rknn-toolkit2 中的 rknpu2/runtime/Linux/librknn_api/aarch64/{library}</translation>
        </message>
        <message>
            <source>copy {file} to /usr/lib, then sudo ldconfig</source>
            <translation>将{file} 复制到 /usr/lib，然后运行 sudo ldconfig</translation>
        </message>
        <message>
            <source>no {library}</source>
            <translation>没有 {library}</translation>
        </message>
        <message>
            <source>{path} is no library for aarch64</source>
            <translation>{path} 不是 aarch64 的库</translation>
        </message>
        <message>
            <source>replace it by {file}</source>
            <translation>请换成{file}</translation>
        </message>
        <message>
            <source>{path} does not tell its version</source>
            <translation>{path} 没有写明版本</translation>
        </message>
        <message>
            <source>if models do not load, replace it by {file}</source>
            <translation>如果模型无法加载，请换成{file}</translation>
        </message>
        <message>
            <source>{library} {version} in {folder}</source>
            <translation>{folder} 中的 {library} {version}</translation>
        </message>
        <message>
            <source>{told}, another version in {folder}</source>
            <translation>{told}，{folder} 中另有不同版本</translation>
        </message>
        <message>
            <source>keep one, in /usr/lib, or which one is loaded is chance</source>
            <translation>请只在 /usr/lib 中保留一个，否则加载哪一个全凭偶然</translation>
        </message>
        <message>
            <source>the vendor's wheel looks in /usr/lib: sudo ln -s {path} /usr/lib/{library}</source>
            <translation>厂商的 wheel 包在 /usr/lib 中查找：sudo ln -s {path} /usr/lib/{library}</translation>
        </message>
        <message>
            <source>{wheel} is not installed: no backend through the vendor's Python</source>
            <translation>未安装 {wheel}：不能使用厂商 Python 接口的后端</translation>
        </message>
        <message>
            <source>pip install ".[{extra}]" in the clone</source>
            <translation>在克隆的仓库中运行 pip install ".[{extra}]"</translation>
        </message>
        <message>
            <source>{wheel} {version}</source>
            <translation>{wheel} {version}</translation>
        </message>
        <message>
            <source>{told}, but {library} is {version}</source>
            <translation>{told}，但 {library} 是 {version}</translation>
        </message>
        <message>
            <source>bring {library} to {version}</source>
            <translation>请将 {library} 换成 {version} 版</translation>
        </message>
        <message>
            <source>name a bundle: a folder with a manifest.json</source>
            <translation>请指定模型包：含有 manifest.json 的文件夹</translation>
        </message>
        <message>
            <source>{one} and {other}</source>
            <translation>{one} 和 {other}</translation>
        </message>
        <message>
            <source>{name} ({held})</source>
            <translation>{name}（{held}）</translation>
        </message>
        <message>
            <source>no model</source>
            <translation>没有模型</translation>
        </message>
        <message>
            <source>{told}: nothing for the NPU</source>
            <translation>{told}：没有可在 NPU 上运行的文件</translation>
        </message>
        <message>
            <source>export the bundle again with its .rknn</source>
            <translation>请重新导出带 .rknn 的模型包</translation>
        </message>
        <message>
            <source>{told}: only an NPU runs it, and there is none here</source>
            <translation>{told}：只能在 NPU 上运行，而这里没有 NPU</translation>
        </message>
        <message>
            <source>run it on the board, or export the bundle again with its ONNX file for this machine's CPU</source>
            <translation>请在开发板上运行，或重新导出带 ONNX 文件的模型包，以便用本机 CPU</translation>
        </message>
        <message>
            <source>{told} is compiled for {target}</source>
            <translation>{told} 是为 {target} 编译的</translation>
        </message>
        <message>
            <source>export it for rk3588</source>
            <translation>请为 rk3588 导出</translation>
        </message>
        <message>
            <source>{told}, does not say which toolkit made it</source>
            <translation>{told}，没有写明由哪个版本的 toolkit 生成</translation>
        </message>
        <message>
            <source>{told}, made by toolkit {version}</source>
            <translation>{told}，由 toolkit {version} 生成</translation>
        </message>
        <message>
            <source>{told}, newer than the runtime's {version}</source>
            <translation>{told}，比运行库的 {version} 新</translation>
        </message>
        <message>
            <source>bring {library} to {toolkit} or newer, or export with rknn-toolkit2 {runtime}</source>
            <translation>请将 {library} 更新到 {toolkit} 或更新版本，或用 rknn-toolkit2 {runtime} 导出</translation>
        </message>
        <message>
            <source>{told}, runtime {version}</source>
            <translation>{told}，运行库 {version}</translation>
        </message>
        <message>
            <source>this kernel shows no scaling</source>
            <translation>此内核不提供调频信息</translation>
        </message>
        <message>
            <source>{now:.0f} of {top:.0f} MHz, {governor}</source>
            <translation>{now:.0f} / {top:.0f} MHz，调速器 {governor}</translation>
        </message>
        <message>
            <source>{told}, held at {limit:.0f} MHz or less</source>
            <translation>{told}，被限制为最高 {limit:.0f} MHz</translation>
        </message>
        <message>
            <source>for even times: echo performance | sudo tee {place}/governor</source>
            <translation>要使耗时稳定：echo performance | sudo tee {place}/governor</translation>
        </message>
        <message>
            <source>{governors} on {count} clusters or cores</source>
            <translation>{count} 个簇或核心使用调速器 {governors}</translation>
        </message>
        <message>
            <source>{governor} on CPU {cpus}</source>
            <translation>CPU {cpus} 使用 {governor}</translation>
        </message>
        <message>
            <source>for even times: echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor</source>
            <translation>要使耗时稳定：echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor</translation>
        </message>
        <message>
            <source>no sensors shown</source>
            <translation>没有可读的传感器</translation>
        </message>
        <message>
            <source>{celsius:.0f} °C at {sensor}, slows down at {throttle:.0f} °C</source>
            <translation>{sensor} 处 {celsius:.0f} °C，到 {throttle:.0f} °C 会降频</translation>
        </message>
        <message>
            <source>switch off and cool: at {critical:.0f} °C it stops by itself</source>
            <translation>请关机降温：到 {critical:.0f} °C 会自动停机</translation>
        </message>
        <message>
            <source>add a heat sink or a fan; throughput falls from here on</source>
            <translation>请加装散热片或风扇；温度再升，吞吐量就会下降</translation>
        </message>
        <message>
            <source>/proc/meminfo does not tell</source>
            <translation>/proc/meminfo 没有给出内存大小</translation>
        </message>
        <message>
            <source>mount /proc</source>
            <translation>请挂载 /proc</translation>
        </message>
        <message>
            <source>{free} of {total} MiB available</source>
            <translation>可用 {free} MiB，共 {total} MiB</translation>
        </message>
        <message>
            <source>stop what is not needed (the desktop first), or add swap</source>
            <translation>请停止不需要的程序（先停桌面），或增加交换空间</translation>
        </message>
        <message>
            <source>stop what is not needed before huge scenes or several models</source>
            <translation>处理超大场景或多个模型之前，请停止不需要的程序</translation>
        </message>
        <message>
            <source>the kernel does not tell which CPUs may be used</source>
            <translation>内核没有给出可用的 CPU</translation>
        </message>
        <message>
            <source>{count} CPUs ({cpus})</source>
            <translation>{count} 个 CPU（{cpus}）</translation>
        </message>
        <message>
            <source>{told}, the big ones are {cpus}</source>
            <translation>{told}，其中大核为 {cpus}</translation>
        </message>
        <message>
            <source>{told}: not all of them may be used</source>
            <translation>{told}：其中有的不可用</translation>
        </message>
        <message>
            <source>start it with taskset -c {cpus}, or give the container or service all CPUs</source>
            <translation>请用 taskset -c {cpus} 启动，或把全部 CPU 分给容器或服务</translation>
        </message>
        <message>
            <source>unset OMP_NUM_THREADS, or set it to 1 to {most}</source>
            <translation>请取消设置 OMP_NUM_THREADS，或设为 1 到 {most}</translation>
        </message>
        <message>
            <source>videos are decoded on the CPU</source>
            <translation>视频由 CPU 解码</translation>
        </message>
        <message>
            <source>no /dev/mpp_service: videos are decoded on the CPU</source>
            <translation>没有 /dev/mpp_service：视频由 CPU 解码</translation>
        </message>
        <message>
            <source>vendor kernels have it; in a container add --device /dev/mpp_service</source>
            <translation>厂商内核中有它；在容器中请加上 --device /dev/mpp_service</translation>
        </message>
        <message>
            <source>{nodes}, but no program drives it: videos are decoded on the CPU</source>
            <translation>{nodes}，但没有程序使用它：视频由 CPU 解码</translation>
        </message>
        <message>
            <source>apt install gstreamer1.0-rockchip1, or ffmpeg with rkmpp, from the board maker's packages</source>
            <translation>请从开发板厂商的软件源 apt install gstreamer1.0-rockchip1，或安装带 rkmpp 的 ffmpeg</translation>
        </message>
        <message>
            <source>{programs} on {nodes}</source>
            <translation>{programs}，使用 {nodes}</translation>
        </message>
        <message>
            <source>not installed: no backend on the CPU</source>
            <translation>未安装：没有 CPU 后端</translation>
        </message>
        <message>
            <source>no OpenCV</source>
            <translation>没有 OpenCV</translation>
        </message>
        <message>
            <source>no PyQt5</source>
            <translation>没有 PyQt5</translation>
        </message>
        <message>
            <source>QT_QPA_PLATFORM_PLUGIN_PATH points into OpenCV: a window aborts</source>
            <translation>QT_QPA_PLATFORM_PLUGIN_PATH 指向 OpenCV：窗口会异常退出</translation>
        </message>
        <message>
            <source>{told}: both write the folder cv2</source>
            <translation>{told}：两者都写入 cv2 文件夹</translation>
        </message>
        <message>
            <source>{told}: OpenCV's Qt plugins make a PyQt5 window abort</source>
            <translation>{told}：OpenCV 自带的 Qt 插件会使 PyQt5 窗口异常退出</translation>
        </message>
        <message>
            <source>pip uninstall -y {names}, then pip install opencv-python-headless</source>
            <translation>运行 pip uninstall -y {names}，再运行 pip install opencv-python-headless</translation>
        </message>
        <message>
            <source>not compared: no NPU here</source>
            <translation>未比较：这里没有 NPU</translation>
        </message>
        <message>
            <source>not compared: a capture has no NPU</source>
            <translation>未比较：采集的文件树没有 NPU</translation>
        </message>
        <message>
            <source>not compared: the errors above come first</source>
            <translation>未比较：请先解决上面的错误</translation>
        </message>
        <message>
            <source>not compared: the bundle holds no .rknn</source>
            <translation>未比较：模型包中没有 .rknn</translation>
        </message>
        <message>
            <source>see what happens: rsedge detect {bundle} IMAGE --out DIR --backend rknn-capi</source>
            <translation>请查看实际情况：rsedge detect {bundle} IMAGE --out DIR --backend rknn-capi</translation>
        </message>
        <message>
            <source>could not be compared ({error})</source>
            <translation>无法比较（{error}）</translation>
        </message>
        <message>
            <source>two ways to move data to and from the NPU give different results</source>
            <translation>与 NPU 之间传送数据的两种方式结果不同</translation>
        </message>
        <message>
            <source>use --backend rknn-lite, and bring driver and librknnrt.so up to date</source>
            <translation>请用 --backend rknn-lite，并更新驱动和 librknnrt.so</translation>
        </message>
        <message>
            <source>all ways to move data to and from the NPU give the same, bit for bit</source>
            <translation>与 NPU 之间传送数据的各种方式结果逐位相同</translation>
        </message>
    </context>
    <context>
        <name>DoctorChecks</name>
        <message>
            <source>chip</source>
            <translation>芯片</translation>
        </message>
        <message>
            <source>kernel</source>
            <translation>内核</translation>
        </message>
        <message>
            <source>memory</source>
            <translation>内存</translation>
        </message>
        <message>
            <source>temperature</source>
            <translation>温度</translation>
        </message>
        <message>
            <source>threads</source>
            <translation>线程</translation>
        </message>
        <message>
            <source>NPU</source>
            <translation>NPU</translation>
        </message>
        <message>
            <source>NPU driver</source>
            <translation>NPU 驱动</translation>
        </message>
        <message>
            <source>driver version</source>
            <translation>驱动版本</translation>
        </message>
        <message>
            <source>NPU device</source>
            <translation>NPU 设备</translation>
        </message>
        <message>
            <source>NPU load</source>
            <translation>NPU 负载</translation>
        </message>
        <message>
            <source>runtime library</source>
            <translation>运行库</translation>
        </message>
        <message>
            <source>wheel</source>
            <translation>wheel 包</translation>
        </message>
        <message>
            <source>ONNX Runtime</source>
            <translation>ONNX Runtime</translation>
        </message>
        <message>
            <source>model</source>
            <translation>模型</translation>
        </message>
        <message>
            <source>transfers</source>
            <translation>数据传送</translation>
        </message>
        <message>
            <source>Qt</source>
            <translation>Qt</translation>
        </message>
        <message>
            <source>NPU clock</source>
            <translation>NPU 频率</translation>
        </message>
        <message>
            <source>DDR clock</source>
            <translation>DDR 频率</translation>
        </message>
        <message>
            <source>CPU clock</source>
            <translation>CPU 频率</translation>
        </message>
        <message>
            <source>decoders</source>
            <translation>解码器</translation>
        </message>
    </context>
    <context>
        <name>HelpDialogs</name>
        <message>
            <source>From annotated aerial images to an INT8 detector on the RK3588.</source>
            <translation>从带标注的航空影像到 RK3588 上的 INT8 检测器。</translation>
        </message>
        <message>
            <source>The Apache licence 2.0 applies to rsedge. Qt and PyQt5 are there under the GPL 3.</source>
            <translation>rsedge 采用 Apache 2.0 许可证；Qt 和 PyQt5 在此按 GPL 3 使用。</translation>
        </message>
        <message>
            <source>&amp;Close</source>
            <translation>关闭(&amp;C)</translation>
        </message>
    </context>
</TS>
