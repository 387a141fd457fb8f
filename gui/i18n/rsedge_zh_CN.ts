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
            <source>R&amp;ecent sources</source>
            <translation>最近的来源(&amp;E)</translation>
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
</TS>
